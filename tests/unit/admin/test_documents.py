# SPDX-License-Identifier: BSD-2-Clause
"""Man page, completions and Salt formula say what the command line says, no more and no less."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qubes_miragevpn.admin.main import LABELS, parser
from qubes_miragevpn.base.exitcodes import ExitCode

ROOT = Path(__file__).parents[3]
MAN = (ROOT / "doc" / "man" / "qvm-miragevpn.1").read_text(encoding="ascii").replace("\\-", "-")
COMPLETIONS = ROOT / "install" / "both" / "bash-completion"


def commands() -> dict[str, argparse.ArgumentParser]:
    found = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def options(command: argparse.ArgumentParser) -> set[str]:
    return {word for action in command._actions for word in action.option_strings} - {"-h", "--help"}


def sections() -> dict[str, str]:
    """The text under each command of the man page."""
    body = MAN[MAN.index(".SH COMMANDS") : MAN.index(".SH OPTIONS")]
    return {part.split("\n", 1)[0].split()[0]: part for part in body.split(".SS ")[1:]}


def test_the_man_page_has_every_command() -> None:
    assert set(sections()) == set(commands())


@pytest.mark.parametrize("name", commands())
def test_the_man_page_has_every_option_and_argument(name: str) -> None:
    section, command = sections()[name], commands()[name]
    assert set(re.findall(r"^\.BI? (--[a-z-]+)", section, flags=re.MULTILINE)) == options(command)
    for action in command._actions:
        if action.option_strings and action.metavar:
            assert f'.BI {action.option_strings[0]} " {action.metavar}"' in section
        elif not action.option_strings:
            assert str(action.metavar) in section.split("\n", 1)[0]


def test_the_man_page_has_the_exit_codes() -> None:
    listed = {int(code) for code in re.findall(r"^(\d+)\|", MAN, flags=re.MULTILINE)}
    said = {int(code) for code in re.findall(r"(\d+) [a-z]+", str(parser().epilog))}
    assert listed == said <= {code.value for code in ExitCode}


def test_the_readme_has_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lacking = [name for name in commands() if not re.search(rf"`(qvm-miragevpn )?{name}\b", readme)]
    assert not lacking


@pytest.mark.parametrize("name", ["miragevpn", "qvm-miragevpn"])
def test_the_completions_are_those_of_the_parsers(name: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "completion", tmp_path], check=True)
    assert (COMPLETIONS / name).read_text() == (tmp_path / name).read_text(), "run tools/completion"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("qvm-miragevpn det", {"detach"}),
        ("qvm-miragevpn --debug stat", {"status"}),
        ("qvm-miragevpn create --label bl", {"blue", "black"}),
        ("qvm-miragevpn create --net", {"--netvm"}),
        ("qvm-miragevpn attach wo", {"work"}),
        ("qvm-miragevpn detach x --netvm sys-f", {"sys-firewall"}),
        ("qvm-miragevpn import ", {"--help", "--vpn"}),
        ("miragevpn pro", {"profiles"}),
        ("miragevpn check --role s", {"server"}),
    ],
)
def test_completing(line: str, found: set[str]) -> None:
    words = line.split(" ")
    script = (
        f"qvm-ls() {{ printf 'work\\nsys-firewall\\n'; }}\nsource {shlex.quote(str(COMPLETIONS / words[0]))}\n"
        f"COMP_WORDS=({shlex.join(words)})\nCOMP_CWORD={len(words) - 1}\n_{words[0].replace('-', '_')}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert set(ran.stdout.split()) == found and not ran.stderr


def test_the_salt_formula_runs_commands_that_there_are() -> None:
    """Its lines, with what Jinja puts there filled in, are taken by the parser; the same before and after `unless`."""
    text = (ROOT / "install" / "dom0" / "salt" / "qubes-miragevpn.sls").read_text(encoding="ascii")
    filled = re.sub(r"{{ options .*? }}", "--label green --template t --netvm n --allow-endpoint h:1/udp", text)
    filled = re.sub(r"{{ .*? }}", "x", filled)
    added = re.findall(r"options.append\('(--[a-z-]+) '", text) + re.findall(r"\['(--[a-z-]+) '", text)
    assert set(added) == {"--label", "--template", "--netvm", "--allow-endpoint"}
    # Block scalars, since the lines hold ": ", which a plain scalar of YAML's may not.
    lines = re.findall(r"- (?:name|unless): >-\n {8}(qvm-miragevpn [^|\n]*)", filled)
    assert len(lines) == 4
    for before, after in zip(lines[::2], lines[1::2], strict=True):
        assert parser().parse_args(shlex.split(before)[1:]).dry_run is False
        assert shlex.split(after) == [*shlex.split(before), "--dry-run"]
    assert all(label in LABELS for label in re.findall(r"label', '(\w+)'", text))
