# SPDX-License-Identifier: BSD-2-Clause
"""Opening TUN devices, with and without python-pytun, and being refused."""

from __future__ import annotations

import errno
import os

import pytest

from qubes_miragevpn.base.errors import MisuseError, SystemRefused
from qubes_miragevpn.runtime import tun as tun_module
from qubes_miragevpn.runtime.tun import QUEUE, QUEUE_OF_LARGE, open_tun

NAME = f"tut{os.getpid()}"[:15]


@pytest.fixture(params=["pytun", "ioctl"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of opening, one after the other."""
    if request.param == "ioctl":
        monkeypatch.setattr(tun_module, "pytun", None)
    elif tun_module.pytun is None:
        pytest.skip("python-pytun is not installed")
    return str(request.param)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_both_ways_open_the_same(way: str) -> None:
    tun = open_tun(NAME)
    try:
        assert tun.name == NAME
        assert os.path.isdir(f"/sys/class/net/{NAME}")
        with open(f"/sys/class/net/{NAME}/tun_flags", encoding="ascii") as flags:
            assert int(flags.read(), 16) & 0x5FFF == 0x1001  # IFF_TUN, IFF_NO_PI; nothing else
        assert not os.get_inheritable(tun.fd)
        with pytest.raises(BlockingIOError):
            os.read(tun.fd, 100)
    finally:
        tun.close()
    tun.close()
    assert tun.fd == -1
    assert not os.path.exists(f"/sys/class/net/{NAME}")


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_where_one_packet_may_be_many_fewer_wait(way: str) -> None:
    queues = []
    for headers in (False, True):
        tun = open_tun(NAME, headers=headers)
        queues.append(tun.queue)
        tun.close()
    assert queues == [QUEUE, QUEUE_OF_LARGE] and QUEUE_OF_LARGE < QUEUE


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_a_name_in_use_is_refused_with_a_remedy(way: str) -> None:
    tun = open_tun(NAME)
    try:
        with pytest.raises(SystemRefused, match="in use"):
            open_tun(NAME)
    finally:
        tun.close()
    with pytest.raises(SystemRefused, match="of another kind"):
        open_tun("lo")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOENT, "modprobe tun"),
        (errno.EPERM, "CAP_NET_ADMIN"),
        (errno.EACCES, "CAP_NET_ADMIN"),
        (errno.EMFILE, "/dev/net/tun"),
    ],
)
def test_refusals_say_what_to_do(number: int, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, "no")

    monkeypatch.setattr(tun_module, "pytun", None)
    monkeypatch.setattr(tun_module.os, "open", refuse)
    with pytest.raises(SystemRefused) as caught:
        open_tun("vpn0")
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "a\0b", "\u00e9" * 8])
def test_impossible_names_are_our_own_fault(name: str) -> None:
    with pytest.raises(MisuseError):
        open_tun(name)
