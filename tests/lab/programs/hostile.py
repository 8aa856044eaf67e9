# SPDX-License-Identifier: BSD-2-Clause
"""Our server with a will of its own: ``hostile.py FILE server CONFIG`` pushes the lines of FILE, and its own before."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from qubes_miragevpn.cli.main import main
from qubes_miragevpn.protocol.serving import welcome as server


def corrupt(file: Path) -> None:
    """The last of two options counts, so that these win; they are read anew for every client."""
    honest = server.push_options

    def push_options(*arguments: Any) -> list[str]:
        lines = file.read_text().splitlines()
        words = {line.split()[0] for line in lines}
        return [option for option in honest(*arguments) if option.split()[0] not in words] + lines

    server.push_options = push_options


if __name__ == "__main__":
    corrupt(Path(sys.argv.pop(1)))
    sys.exit(main(sys.argv[1:]))
