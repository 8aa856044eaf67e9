# SPDX-License-Identifier: BSD-2-Clause
"""Fixtures of the interop tests: one PKI a session, a wire a test, and the logs of both ends when a test fails."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.interop import pki as pki_module
from tests.interop.bench import Bench as Bench
from tests.interop.netns import Wire
from tests.interop.peers import OPENVPN, OURS
from tests.interop.pki import Pki

BENCH = pytest.StashKey[Bench]()


@pytest.fixture(scope="session")
def pki() -> Pki:
    """Certificates and keys of this session."""
    return pki_module.make()


@pytest.fixture
def bench(pki: Pki, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """An empty wire."""
    made = Bench(pki, Wire(), tmp_path)
    request.node.stash[BENCH] = made
    yield made
    made.close()


@pytest.fixture(params=[(OPENVPN, OURS), (OURS, OPENVPN)], ids=["our-client", "our-server"])
def kinds(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(kind of the server, kind of the client): each of ours against the real one."""
    pair: tuple[str, str] = request.param
    return pair


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show both logs with a failure."""
    report = yield
    if report.failed and BENCH in item.stash:
        for peer in item.stash[BENCH].peers:
            tail = "\n".join(peer.log.splitlines()[-60:])
            report.sections.append((f"log of {peer.name} (last lines)", tail))
    return report
