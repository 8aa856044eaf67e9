# SPDX-License-Identifier: BSD-2-Clause
"""What a person and a hostile program do in an AppVM: fetch a page, ask a resolver, send by every way."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from tests.lab.network import AppVM, python
from tests.lab.places import FOREIGN_DNS4, LAN_ROUTER4, NET_DOMID, SITE_A, SITE_B, VPN_DOMID, WEB4, WEB6, Address
from tests.lab.qube import Qube, drain
from tests.lab.tables import VIRTUAL_DNS


def ask(appvm: AppVM, *arguments: str) -> str:
    """Run ``ask.py`` in the AppVM; the answer, or "" and a reason that begins with "no: "."""
    done = appvm.qube.run(*python("ask.py"), *arguments, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"no: {done.stderr.strip().splitlines()[-1]}"


def seen_address(appvm: AppVM, host: str = WEB4) -> str:
    """The address that the web server sees when the AppVM fetches its page, or "no: REASON"."""
    answer = ask(appvm, "fetch", host)
    return answer.removeprefix("hello, you are ")


class Noise:
    """``noise.py`` in an AppVM, or (`own`) in sys-vpn itself; as a context manager it begins with the first packets."""

    def __init__(self, qube: Qube, *, own: bool = False) -> None:
        self.qube = qube
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        targets = {
            "web4": WEB4,
            "web6": WEB6,
            "foreign": FOREIGN_DNS4,
            "dns1": VIRTUAL_DNS[0],
            "dns2": VIRTUAL_DNS[1],
            "server": SITE_A.public4,
            "gateway": Address.of(VPN_DOMID).ip4,
            "netvm4": Address.of(NET_DOMID).ip4,
            "netvm6": Address.of(NET_DOMID).ip6,
            "lan": LAN_ROUTER4,
            "inside a": SITE_A.resolver,
            "inside b": SITE_B.resolver,
        }
        command = [*python("noise.py"), json.dumps(targets), *(["own"] if own else [])]
        self.process = qube.popen(command, stdout=subprocess.PIPE)

    def __enter__(self) -> Noise:
        assert self.process.stdout is not None
        drain(self.process.stdout, self._line)
        self.wait(lambda: self.sent["udp4"] > 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    def _line(self, line: bytes) -> None:
        report = json.loads(line)
        self.sent, self.answers = Counter(report["sent"]), Counter(report["answers"])

    def wait(self, condition: Callable[[], bool], timeout: float = 30) -> None:
        """Return when `condition()` holds; raises AssertionError when it does not in time."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"noise of {self.qube.name}: sent {self.sent}, answers {self.answers}")
            time.sleep(0.02)

    def rounds(self, number: int = 12, timeout: float = 30) -> None:
        """Return after at least so many more rounds were sent."""
        goal = self.sent["udp4"] + number
        self.wait(lambda: self.sent["udp4"] >= goal, timeout)
