# SPDX-License-Identifier: BSD-2-Clause
"""What every test group shares: what it needs from the machine, its order, and a time limit for each test.

A group is a folder of tests/. One that cannot run here (no root, no TUN, no openvpn) is named and fails; with
ALLOW_SKIP=1 it is named and skipped. Nothing is ever left out in silence.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

TESTS = Path(__file__).parent

GROUPS = ("unit", "vectors", "pair", "packages", "interop", "lab", "bench")
"""The order in which groups run: cheap and telling first."""

GROUP_NEEDS = {
    "packages": ("needs_builders",),
    "interop": ("needs_root", "needs_tun", "needs_openvpn"),
    "lab": ("needs_root", "needs_tun"),
    "bench": ("needs_root", "needs_tun", "needs_openvpn"),
}
"""Markers that every test of a folder bears."""

TIME_LIMIT = {"packages": 400.0, "interop": 150.0, "lab": 240.0, "bench": 240.0}
DEFAULT_TIME_LIMIT = 30.0


def _no_root() -> str:
    if os.geteuid() != 0:
        return "root"
    # A container's root may still be denied namespaces.
    ran = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "" if ran.returncode == 0 else "the right to make network namespaces"


def _no_tun() -> str:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun ({error.strerror})"
    return ""


def _no_openvpn() -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return "" if shutil.which("openvpn", path=path) else "the openvpn program"


def _no_proxies() -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    wanted = {"squid": ("squid",), "tinyproxy": ("tinyproxy",), "dante": ("danted", "sockd")}
    lacking = [name for name, files in wanted.items() if not any(shutil.which(file, path=path) for file in files)]
    return " and ".join(lacking)


def _no_builders() -> str:
    wanted = ("rpmbuild", "dpkg-buildpackage", "dh", "dh_python3", "mmdebstrap")
    lacking = [name for name in (wanted if shutil.which("apt-get") else wanted[:1]) if not shutil.which(name)]
    return ", ".join(lacking)


def _no_native() -> str:
    found = importlib.util.find_spec("qubes_miragevpn.dataplane._native")
    return "" if found else "the native data plane (cargo, and tools/native build)"


@cache
def _no_cargo() -> bool:
    ran = subprocess.run([TESTS.parent / "tools/native", "lacking"], capture_output=True, check=True)
    return bool(ran.stdout.strip())


MISSING = {
    "needs_root": cache(_no_root),
    "needs_tun": cache(_no_tun),
    "needs_openvpn": cache(_no_openvpn),
    "needs_proxies": cache(_no_proxies),
    "needs_builders": cache(_no_builders),
    "needs_native": cache(_no_native),
}
"""For each marker, what this machine lacks, or ""."""

DISPENSABLE = {"needs_native": _no_cargo}
"""What may be lacking without leave: the program itself goes on without it there. Named all the same."""

CANNOT_RUN = pytest.StashKey[str]()
_lacking: dict[str, set[str]] = {}
_soak: set[str] = set()
_left_out: set[str] = set()


def _group(item: pytest.Item) -> str:
    try:
        return item.path.relative_to(TESTS).parts[0]
    except ValueError:
        return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put groups in order, mark them with what they need, skip what cannot run if that is allowed."""
    rank = {name: number for number, name in enumerate(GROUPS)}
    items.sort(key=lambda item: rank.get(_group(item), len(rank)))
    if os.environ.get("SOAK") != "1":
        long = [item for item in items if item.get_closest_marker("soak")]
        items[:] = [item for item in items if item not in long]
        _soak.update(item.nodeid for item in long)
    for item in items:
        for name in GROUP_NEEDS.get(_group(item), ()):
            item.add_marker(name)
        names = [name for name, missing in MISSING.items() if item.get_closest_marker(name) and missing()]
        if not names:
            continue
        lacking = [MISSING[name]() for name in names]
        if all(name in DISPENSABLE and DISPENSABLE[name]() for name in names):
            _left_out.update(lacking)
            item.add_marker(pytest.mark.skip(reason="needs " + ", ".join(lacking)))
            continue
        _lacking.setdefault(_group(item), set()).update(lacking)
        if os.environ.get("ALLOW_SKIP") == "1":
            item.add_marker(pytest.mark.skip(reason="needs " + ", ".join(lacking)))
        else:
            item.stash[CANNOT_RUN] = ", ".join(lacking)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that writes the summary, where this one only runs tests for it."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left out"] = (
            {group: sorted(lacking) for group, lacking in _lacking.items()}, sorted(_soak), sorted(_left_out)
        )


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Hear what a process of pytest-xdist left out."""
    lacking, soak, left_out = getattr(node, "workeroutput", {}).get("left out", ({}, (), ()))
    _left_out.update(left_out)
    for group, what in lacking.items():
        _lacking.setdefault(group, set()).update(what)
    _soak.update(soak)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what did not run."""
    if _soak:
        terminalreporter.write_line(f"{len(_soak)} long tests are for `make soak`")
    for what in sorted(_left_out):
        terminalreporter.write_line(f"left out, as the program does: {what}")
    for group, lacking in sorted(_lacking.items()):
        allowed = os.environ.get("ALLOW_SKIP") == "1"
        verdict = "left out (ALLOW_SKIP=1)" if allowed else "FAILED: cannot run here (ALLOW_SKIP=1 would leave it out)"
        terminalreporter.write_line(f"group {group}: {verdict}; it needs {', '.join(sorted(lacking))}", red=not allowed)
    wanted = os.environ.get("FAILED_LIST")
    if wanted:
        Path(wanted).write_text("".join(f"{_again(report)}\n" for report in _failures(terminalreporter)))


def _failures(terminalreporter: pytest.TerminalReporter) -> list[pytest.TestReport]:
    return [report for kind in ("failed", "error") for report in terminalreporter.stats.get(kind, [])]


def _again(report: pytest.TestReport) -> str:
    """The test that `tools/test` may run once more, or why it may not."""
    return report.nodeid if getattr(report, "when", "") in ("setup", "call") else f"while clearing up: {report.nodeid}"


# --- the machine is left as it was -----------------------------------------------------------------------


def _network() -> str:
    """What a test of ours could do to the machine itself, if it forgot to make a namespace."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    shown = [
        subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for command in (["ip", "rule"], ["ip", "-6", "rule"], ["nft", "list", "tables"])
        if shutil.which(command[0], path=path)
    ]
    return "".join(shown)


@pytest.fixture(scope="session", autouse=True)
def the_machines_own_network() -> Iterator[None]:
    """Fail if rules or tables of the machine that runs the tests are others afterwards."""
    before = _network()
    yield
    assert _network() == before, "a test changed the machine's own network"


# --- time limit -----------------------------------------------------------------------------------------


@contextmanager
def _limited(item: pytest.Item) -> Iterator[None]:
    marker = item.get_closest_marker("time_limit")
    seconds = float(marker.args[0]) if marker else TIME_LIMIT.get(_group(item), DEFAULT_TIME_LIMIT)

    def out_of_time(_signal: int, _frame: FrameType | None) -> None:
        pytest.fail(f"ran longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, out_of_time)
    # Again every second: an asyncio task that nobody awaits may swallow the first.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Fail what cannot run here; bound the fixtures' time."""
    if CANNOT_RUN in item.stash:
        pytest.fail(f"cannot run here: needs {item.stash[CANNOT_RUN]}", pytrace=False)
    with _limited(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Bound the test's time."""
    with _limited(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Bound the clean-up's time."""
    with _limited(item):
        return (yield)
