# SPDX-License-Identifier: BSD-2-Clause
"""Outer sockets: connected, marked, sized, bound, listening."""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from qubes_miragevpn.base.errors import ConfigError, SystemRefused
from qubes_miragevpn.config.model import Family, Listen, Local, Proto
from qubes_miragevpn.runtime.sockets import transports
from qubes_miragevpn.runtime.sockets.transports import Acceptor, SocketOptions, open_client, open_listener
from tests.unit.runtime.netns import in_netns

LOCAL = {4: IPv4Address("127.0.0.1"), 6: IPv6Address("::1")}
FAMILY = {4: Family.IPV4, 6: Family.IPV6}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", Proto)
def test_client_and_listener_meet(proto: Proto, version: int) -> None:
    async def run() -> None:
        listener = open_listener(Listen(str(LOCAL[version]), 0, proto, FAMILY[version]), SocketOptions())
        port = listener.getsockname()[1]
        sock, remote = await open_client(proto, LOCAL[version], port, SocketOptions())
        assert remote[:2] == (str(LOCAL[version]), port) and len(remote) == (2 if version == 4 else 4)
        assert sock.getpeername()[:2] == remote[:2]
        assert not sock.getblocking() and not listener.getblocking() and not sock.get_inheritable()
        if proto is Proto.TCP:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        else:
            sock.send(b"x")
            await asyncio.sleep(0)
            assert listener.recvfrom(10)[0] == b"x"
        sock.close()
        listener.close()

    asyncio.run(run())


@pytest.mark.needs_root
def test_mark_buffers_and_port_are_set_before_use() -> None:
    async def run() -> None:
        spare = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        spare.bind(("", 0))
        port = spare.getsockname()[1]
        spare.close()
        options = SocketOptions(mark=0x51564D, rcvbuf=9 << 20)
        sock, _ = await open_client(Proto.UDP, LOCAL[4], 9, options, local=Local(port=port))
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x51564D
        # the kernel doubles what is asked for (socket(7)); the limit of unprivileged sockets is passed by force
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * (9 << 20)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * transports.UDP_SNDBUF
        assert sock.getsockname()[1] == port
        sock.close()

    asyncio.run(run())


def test_an_address_of_our_own_and_a_device() -> None:
    async def run() -> None:
        sock, _ = await open_client(
            Proto.UDP, LOCAL[4], 9, SocketOptions(dev="lo"), local=Local(IPv4Address("127.0.0.77"))
        )
        assert sock.getsockname()[0] == "127.0.0.77"
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
        sock.close()
        with pytest.raises(OSError, match="cannot reach"):
            await open_client(Proto.UDP, LOCAL[6], 9, SocketOptions(), local=Local(IPv4Address("127.0.0.77")))
        with pytest.raises(OSError, match="bind-dev nosuch0"):
            await open_client(Proto.UDP, LOCAL[4], 9, SocketOptions(dev="nosuch0"))
        with pytest.raises(SystemRefused, match="does not have the address"):
            await open_client(Proto.UDP, LOCAL[4], 9, SocketOptions(), local=Local(IPv4Address("192.0.2.200")))

    asyncio.run(run())


def test_a_buffer_that_cannot_be_forced_is_as_large_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "_FORCE", {socket.SO_RCVBUF: 9999, socket.SO_SNDBUF: 9999})

    async def run() -> None:
        plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock, _ = await open_client(Proto.UDP, LOCAL[4], 9, SocketOptions(rcvbuf=1 << 30))
        with open("/proc/sys/net/core/rmem_max") as limit:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * int(limit.read())
        for each in (plain, sock):
            each.close()

    asyncio.run(run())


def test_a_refused_mark_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprivileged(socket.socket):
        def setsockopt(self, *arguments: Any) -> None:
            if arguments[1] == socket.SO_MARK:
                raise PermissionError(errno.EPERM, "Operation not permitted")
            super().setsockopt(*arguments)

    monkeypatch.setattr(transports.socket, "socket", Unprivileged)
    with pytest.raises(SystemRefused, match="root"):
        asyncio.run(open_client(Proto.UDP, LOCAL[4], 9, SocketOptions(mark=1)))


def test_a_tcp_server_that_says_nothing_is_a_timeout() -> None:
    async def run() -> None:
        full = socket.create_server(("127.0.0.1", 0), backlog=0)
        pending = []
        try:
            with pytest.raises(OSError) as caught:
                while len(pending) < 10:  # until the backlog is full and SYNs are not answered
                    port = full.getsockname()[1]
                    pending.append((await open_client(Proto.TCP, LOCAL[4], port, SocketOptions(), timeout=0.05))[0])
            assert caught.value.errno == errno.ETIMEDOUT
        finally:
            for each in (full, *pending):
                each.close()

    asyncio.run(run())


@pytest.mark.needs_root
def test_an_unreachable_address_is_an_error_of_the_remote() -> None:
    async def run() -> None:
        for proto in Proto:
            with pytest.raises(OSError) as caught:
                await open_client(proto, IPv4Address("192.0.2.1"), 9, SocketOptions())
            assert (caught.value.errno, caught.value.strerror) == (errno.ENETUNREACH, "Network is unreachable")

    in_netns(run)


@pytest.mark.parametrize("proto", Proto)
def test_without_an_address_both_families_are_served(proto: Proto) -> None:
    async def run() -> None:
        listener = open_listener(Listen("", 0, proto), SocketOptions())
        assert listener.family == socket.AF_INET6
        for version in (4, 6):
            sock, _ = await open_client(proto, LOCAL[version], listener.getsockname()[1], SocketOptions())
            if proto is Proto.UDP:
                sock.send(b"x")
                assert listener.recvfrom(10)[0] == b"x"
            sock.close()
        listener.close()

    asyncio.run(run())


def test_without_ipv6_the_server_serves_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    class Without(socket.socket):
        def __init__(self, family: int, *arguments: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *arguments)

    monkeypatch.setattr(transports.socket, "socket", Without)
    listener = open_listener(Listen("", 0, Proto.UDP), SocketOptions())
    assert listener.family == socket.AF_INET
    listener.close()
    with pytest.raises(SystemRefused, match="switched off"):
        open_listener(Listen("", 0, Proto.UDP, Family.IPV6), SocketOptions())


@pytest.mark.parametrize(
    ("listen", "error", "said"),
    [
        (Listen("example.org", 1194, Proto.UDP), ConfigError, "not an address"),
        (Listen("127.0.0.1", 1194, Proto.UDP, Family.IPV6), ConfigError, "other address family"),
        (Listen("192.0.2.77", 1194, Proto.TCP), SystemRefused, "does not have the address"),
    ],
)
def test_where_nobody_can_listen(listen: Listen, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        open_listener(listen, SocketOptions())


def test_an_acceptor_out_of_files_looks_away_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "OUT_OF_FILES_PAUSE", 0.01)

    class Exhausted(socket.socket):
        failures = 1
        calls = 0

        def accept(self) -> Any:
            self.calls += 1
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    async def run() -> None:
        listener = Exhausted(socket.AF_INET, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        accepted: asyncio.Queue[Any] = asyncio.Queue()
        acceptor = Acceptor([listener], 5, lambda sock, remote: accepted.put_nowait((sock, remote)))
        client, _ = await open_client(Proto.TCP, LOCAL[4], listener.getsockname()[1], SocketOptions())
        server, remote = await accepted.get()
        assert remote == client.getsockname() and not server.getblocking()
        assert listener.calls <= 4, "it spun"
        acceptor.close()
        for each in (client, server):
            each.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "becomes", "set_to"),
    [
        (1024, 4096, 3000, 3000, (3000, 4096)),
        (1024, 2048, 3000, 2048, (2048, 2048)),
        (1024, -1, 3000, 3000, (3000, -1)),
        (4096, 4096, 3000, 4096, None),
        (-1, -1, 3000, 3000, None),
    ],
)
def test_as_many_files_as_the_machine_lets_us_have(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: int, becomes: int, set_to: tuple[int, int] | None
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(transports.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(transports.resource, "setrlimit", lambda _, limits: made.append(limits))
    assert transports.allow_files(wanted) == becomes and made == ([] if set_to is None else [set_to])
