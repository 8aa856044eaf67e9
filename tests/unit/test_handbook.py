# SPDX-License-Identifier: BSD-2-Clause
"""What the handbook has people type and look at exists: commands, options, files, units, services, messages, tests.

What can be run here is run as written elsewhere (`tests/unit/admin/test_handbook.py`, `tests/interop/privateserver`).
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qubes_miragevpn.admin.main import parser as dom0_parser
from qubes_miragevpn.admin.vpnqube import FLAG, PROFILE, SUPPORTED, TAG
from qubes_miragevpn.cli import main as cli
from qubes_miragevpn.config.rows.table import ROWS
from qubes_miragevpn.qube import settings
from qubes_miragevpn.qube.profiles import options
from tests.packages.test_contents import DOM0, VM, table
from tests.unit.config.texts import client
from tests.unit.handbook import FOLDER, PLACES, ROOT, Block, blocks, commands, pages, prose, spans

PAGES = sorted(pages())
OURS = ("miragevpn", "qvm-miragevpn")
QVM = {
    "qvm-create", "qvm-clone", "qvm-prefs", "qvm-service", "qvm-features", "qvm-tags", "qvm-run", "qvm-start",
    "qvm-shutdown", "qvm-remove", "qvm-firewall", "qubes-prefs", "qvm-ls",
}  # fmt: skip
PROGRAMS = {
    "dom0": {*QVM, "qvm-miragevpn", "dnf", "rpm"},
    "build": {"apt", "cd", "make", "qvm-copy"},
    "template": {"apt", "dnf", "shutdown"},
    "sys-vpn": {"miragevpn", "systemctl", "journalctl", "nft", "ip", "rm", "echo", "printf", "tee", "qvm-sync-clock"},
    "qube": {"qvm-copy", "tar", "cat"},
    "server": {"miragevpn"},
    "linux": {"miragevpn"},
}
"""What may be typed where: of ours, Qubes' own, and what every template has."""
PROPERTIES = {"memory", "maxmem", "provides_network", "netvm", "autostart", "updatevm"}
UNITS = {path.name for path in (ROOT / "install" / "vm" / "systemd").glob("*.s*") if path.is_file()}
STORE = (settings.CONFIG_FILE, settings.Settings.profile_settings_dir / "home")
"""Files that the owner writes; neither is installed."""
PACKAGED = "/usr/share/doc/qubes-miragevpn/handbook"


def qubes_own(kind: str) -> set[str]:
    """The rows of that kind of the table of what is Qubes' own."""
    return set(re.findall(rf"^\| {kind} \| `([^`]+)` \|", pages()["README.md"], flags=re.MULTILINE))


def console() -> Iterator[tuple[Block, str, list[str]]]:
    """Every simple command with its place; what `qvm-run` hands to a qube's shell counts as typed there."""
    for page in PAGES:
        for block in blocks(page):
            if block.kind == "console":
                for line in block.lines:
                    for words in commands(line):
                        yield block, block.place, words
                        yield from _handed_on(block, words)


def _handed_on(block: Block, words: list[str]) -> Iterator[tuple[Block, str, list[str]]]:
    rest = [word for word in words[1:] if not word.startswith("-") and word != "root"]
    if words[0] == "qvm-run" and "--service" not in words:
        qube, line = rest[0], " ".join(rest[1:])
        for inner in commands(line):
            yield block, {"build": "qube"}.get(qube, qube), inner


# --- pages ------------------------------------------------------------------------------------------------------


def test_nine_pages_at_most_and_each_is_reached() -> None:
    assert len(PAGES) <= 9
    index = pages()["README.md"]
    assert [name for name in PAGES if name != "README.md" and f"]({name})" not in index] == []
    assert "doc/handbook/README.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_packages_bring_it() -> None:
    """With all that it links to."""
    linked = {target for text in pages().values() for target in re.findall(r"\]\(\.\./([\w.-]+)\)", text)}
    wanted = {"doc/handbook", *(f"doc/{name}" for name in linked)}
    assert wanted <= set((ROOT / "debian" / "qubes-miragevpn.docs").read_text(encoding="ascii").split())
    spec = (ROOT / "rpm_spec" / "qubes-miragevpn.spec.in").read_text(encoding="utf-8")
    assert wanted <= {word for line in re.findall(r"^%doc (.*)$", spec, flags=re.MULTILINE) for word in line.split()}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", pages()[page]):
        assert (FOLDER / target).is_file(), target


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_exists(page: str) -> None:
    for file, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", pages()[page]):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {test or 'test_'}", text, flags=re.MULTILINE), f"{file}::{test}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_understood(page: str) -> None:
    text = ""
    for block in blocks(page):
        assert block.kind in ("console", "profile", "policy"), block
        if block.kind == "console":
            assert block.place in PLACES and block.lines, block
            assert not any(line.startswith(("$ ", "# ")) for line in block.lines), block
            text += block.text
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.stderr == ""


def test_package_files_bear_the_version() -> None:
    version = (ROOT / "version").read_text(encoding="ascii").strip()
    for page, text in pages().items():
        for found in re.findall(r"qubes-miragevpn(?:-dom0)?[-_](\d[\d.]*\d)[-_]", text):
            assert found == version, page


# --- commands ---------------------------------------------------------------------------------------------------


def test_every_command_is_one_of_its_place() -> None:
    wrong = [(block.page, place, words) for block, place, words in console() if words[0] not in PROGRAMS[place]]
    assert not wrong


def _parse(words: list[str]) -> None:
    """As the programs do; SystemExit says what is wrong."""
    if words[0] == "qvm-miragevpn":
        dom0_parser().parse_args(words[1:])
        return
    arguments = cli._parser(words[1:]).parse_args(words[1:])
    for word in getattr(arguments, "words", ()):
        assert not word.startswith("--") or word[2:] in ROWS, words


def test_the_parsers_take_every_command_line_of_ours() -> None:
    seen = set()
    for _, _, words in console():
        if words[0] in OURS:
            _parse(words)
            seen.add((words[0], words[1]))
    lacking = {("qvm-miragevpn", name) for name in subcommands(dom0_parser())} - seen
    assert lacking <= {("qvm-miragevpn", name) for name in ("policy", "delete")}, "the handbook shows every command"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_in_the_text(page: str) -> None:
    known = {"qvm-miragevpn": subcommands(dom0_parser()), "miragevpn": subcommands(cli._parser([]))}
    every = [command for group in known.values() for command in group.values()]
    every += subcommands(known["miragevpn"]["pki"]).values()
    flags = {flag for command in every for action in command._actions for flag in action.option_strings}
    for span in spans(prose(page)):
        words = span.split()
        if words[0] in OURS and len(words) > 1:
            assert words[1] in known[words[0]], span
        if words[0] in OURS and len(words) > 2:
            _parse(words)
        if words[0].startswith("--"):
            assert {word for word in words if word.startswith("--")} <= flags, span


def test_names_that_qubes_tools_are_given() -> None:
    services = {FLAG.removeprefix("service."), *qubes_own("service")}
    features = {PROFILE, SUPPORTED, *qubes_own("feature")}
    for block, _, words in console():
        rest = [word for word in words[1:] if not word.startswith("--")]
        match words[0]:
            case "qvm-service":
                assert rest[1] in services and rest[2] in ("on", "off"), (block.page, words)
            case "qvm-features":
                assert rest[1] in features, (block.page, words)
            case "qvm-tags":
                assert rest[1:] == ["add", TAG], (block.page, words)
            case "qvm-prefs" | "qubes-prefs":
                assert set(rest[1 if words[0] == "qvm-prefs" else 0 :]) & PROPERTIES, (block.page, words)
            case "qvm-run" if "--service" in words:
                ours = {path.name for path in (ROOT / "qubes-rpc").iterdir()}
                assert words[-1].partition("+")[0] in ours | qubes_own("qrexec"), (block.page, words)
            case "make":
                makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
                assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in rest), words


# --- what is looked at -----------------------------------------------------------------------------------------


def test_units_exist() -> None:
    known = UNITS | {f"{name}.service" for name in qubes_own("unit")}
    for block, _, words in console():
        if words[0] == "systemctl":
            named = words[2:]
        elif words[0] == "journalctl":
            named = [words[words.index("-u") + 1]]
        else:
            continue
        for name in named:
            assert (name if "." in name else f"{name}.service") in known, (block.page, words)
    for page in PAGES:
        for span in spans(prose(page)):
            if re.fullmatch(r"[\w@-]+\.(service|socket)", span):
                assert span in known, (page, span)


@pytest.mark.parametrize("page", PAGES)
def test_paths_are_installed_or_listed(page: str) -> None:
    installed = {entry.name.rstrip("/") for entry in table(VM) | table(DOM0)}
    known = installed | qubes_own("path") | {str(path) for path in STORE} | {PACKAGED}
    for path in re.findall(r"(?<![\w~./])/(?:etc|usr|rw|var|srv)/[\w./@+-]+", pages()[page]):
        assert path.rstrip("./") in known, path


def test_the_table_of_qubes_own_has_no_idle_rows() -> None:
    others = "\n".join(text for name, text in pages().items() if name != "README.md")
    for kind in ("path", "unit", "qrexec", "service", "feature"):
        assert qubes_own(kind)
        assert [name for name in qubes_own(kind) if name not in others] == []


def test_messages_are_those_that_are_said() -> None:
    section = pages()["troubleshooting.md"].partition("## The tunnel")[2].partition("\n## ")[0]
    quoted = [span for row in re.findall(r"^\| ([^|]*`[^|]*) \|", section, flags=re.MULTILINE) for span in spans(row)]
    said = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "qubes_miragevpn").rglob("*.py"))
    assert len(quoted) > 12
    assert [message for message in quoted if message != "status" and message not in said] == []


# --- what is written into files --------------------------------------------------------------------------------


def test_settings_are_understood(tmp_path: Path) -> None:
    written = 0
    for page in PAGES:
        for text, path in re.findall(r"echo '([^']*)' \| sudo tee (\S+)", pages()[page]):
            written += 1
            if path == str(settings.CONFIG_FILE):
                name, _, value = text.partition(" = ")
                settings.load({f"MIRAGEVPN_{name.upper()}": value}, tmp_path / "none")
            else:
                assert Path(path).parent == settings.Settings.profile_settings_dir
                assert options.parse(text.encode(), path) != options.ProfileOptions()
    assert written == 2


def test_lines_of_profiles_are_taken() -> None:
    found = [block for page in PAGES for block in blocks(page) if block.kind == "profile"]
    assert found
    for block in found:
        assert client(block.text.replace("  ", "")).config


def test_lines_of_policies_are_lines() -> None:
    found = [line for page in PAGES for block in blocks(page) if block.kind == "policy" for line in block.lines]
    assert found
    for line in found:
        service, argument, source, target, action, *rest = line.split()
        assert service in qubes_own("qrexec") or (ROOT / "qubes-rpc" / service).is_file()
        assert argument == "*" and source.startswith("@") and target == "@default" and action == "allow"
        assert all(word.startswith("target=") for word in rest)
