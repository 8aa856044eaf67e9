# SPDX-License-Identifier: BSD-2-Clause
"""`make fuzz`: run every target under atheris for a bounded time, from the corpus. Needs the package atheris.

python -m tests.fuzz [--seconds N] [TARGET ...]

What breaks a target is left in build/fuzz/TARGET; copy it into the corpus with the mending.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "build" / "fuzz"
MAX_LENGTH = 4096  # bytes of an input


def main() -> int:
    """Fuzz each target in a process of its own, since atheris ends its process."""
    names = sorted(path.name for path in (ROOT / "tests" / "fuzz" / "corpus").iterdir())
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        fuzz(arguments.one, arguments.seconds)
    broken = []
    for name in arguments.targets or names:
        print(f"fuzzing {name} for {arguments.seconds} s", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", "--one", name, "--seconds", str(arguments.seconds)]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            broken.append(name)
    print(f"broken: {', '.join(broken)}" if broken else "nothing broke")
    return 1 if broken else 0


def fuzz(name: str, seconds: int) -> None:
    """Run one target; does not return."""
    import atheris

    with atheris.instrument_imports(include=["qubes_miragevpn.config", "qubes_miragevpn.crypto"]):
        from tests.fuzz.targets import CORPUS, SEEDS, TARGETS
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]() if name in SEEDS else ()):
        (found / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH}", "-timeout=5", "-rss_limit_mb=1024"]
    options += ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={found}/", str(found), str(CORPUS / name)]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
