# SPDX-License-Identifier: BSD-2-Clause
"""A bug in the native data plane's threads, met for real: nothing is seen, nothing passes, and it heals by itself.

The kernel's answer to recvmmsg or sendmmsg is made absurd (`tests/interop/datachannel/refusing.c`): more messages than
were asked for. Whoever relies on that number panics, in code that is the one of every day.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.datachannel.refusing import build
from tests.lab.scene import Scene, scene
from tests.lab.service import WRAPPER

WITHIN = 30.0  # seconds for what a busy machine does in one

pytestmark = pytest.mark.needs_native


@pytest.fixture(scope="module")
def live() -> Iterator[Scene]:
    """A scene, connected, whose service can be made to meet the bug."""
    with scene() as made:
        vpn = made.lab.vpn
        library = build(vpn.path("/usr/lib"))
        library.chmod(0o755)
        shim = f"LD_PRELOAD=/usr/lib/{library.name} ABSURD_RECEIVE=/run/absurd-receive ABSURD_SEND=/run/absurd-send"
        vpn.write("/usr/bin/miragevpn", WRAPPER.replace("PYTHONPATH=", f"{shim} PYTHONPATH="), 0o755)
        made.connected()
        yield made


@pytest.mark.parametrize(("call", "thread"), [("receive", "miragevpn-rx"), ("send", "miragevpn-tx")])
def test_a_panic_closes_the_tunnel(live: Scene, call: str, thread: str) -> None:
    begin = len(live.service.log)
    live.lab.vpn.write(f"/run/absurd-{call}", "")
    words = f"the native data plane failed: {thread}: "
    live.service.until(lambda: any(words in line for line in live.service.log[begin:]), words, WITHIN)
    live.must_be_closed()
    live.lab.vpn.path(f"/run/absurd-{call}").unlink()
    live.must_heal(within=WITHIN)
    assert not any("Traceback" in line for line in live.service.log[begin:])
    live.must_be_tight()
