# SPDX-License-Identifier: BSD-2-Clause
"""NAT of a server (``nat``): its clients leave by this machine's uplink, under this machine's address.

A table of nftables of its own for each TUN, and IPv4 forwarding of two interfaces: the TUN and the uplink. What was
closed before stays closed: where forwarding of the uplink is switched on here, new connections from there are dropped.
The tables of all servers that rely on that name the uplink: the last of them switches it off again, and the next start
undoes what a killed server left. IPv6 is forwarded as `forward6` says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.runtime.plain.forward6 import Forward6
from qubes_miragevpn.runtime.plain.nft import alone, device_set, devices_in, is_device, nft, quoted, tables

PREFIX = "miragevpn-nat-"
_SWITCHED = "switched"
_IPV4 = Path("/proc/sys/net/ipv4/conf")

_log = logging.getLogger("miragevpn.host")


class Nat:
    """The NAT of one TUN. Use from one event loop; raises `SystemRefused`."""

    def __init__(self, tun: str, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        """`networks`: whose packets are translated."""
        self._tun = tun
        self._networks = tuple(networks)
        self._switched = ""  # the uplink, if its forwarding is not the machine's own wish
        self._opened = False  # the same of the TUN, which may have been there before us, and may stay
        self._up = False
        self._six = Forward6(tun)

    async def up(self, uplink: str) -> None:
        """Set it up for packets that leave by the interface `uplink`."""
        async with alone():
            await self._sweep()
            self._switched = uplink if not _forwards(uplink) or uplink in await self._relied_on() else ""
            self._opened = not _forwards(self._tun)
            self._up = True
            await nft("-f", "-", text=_table(self._tun, uplink, self._switched, self._networks))
            for dev in (self._tun, self._switched):
                if dev:
                    _forward(dev, on=True)
            with _explained():
                await self._six.sweep()
                if any(network.version == 6 for network in self._networks):
                    await self._six.up()
        _log.info("clients leave by %s", uplink)

    async def close(self) -> None:
        """Undo it; what another server needs stays. What cannot be undone is logged."""
        if self._up:
            self._up = False
            try:
                async with alone():
                    await self._undo()
            except SystemRefused as error:
                _log.warning("not undone: %s", error)

    async def _undo(self) -> None:
        try:
            with _explained():
                await self._six.close()
        finally:  # what is the matter with IPv6 leaves nothing of IPv4 open
            if self._switched and self._switched not in await self._relied_on():
                _forward(self._switched, on=False)
            if self._opened and (_IPV4 / self._tun).is_dir():
                _forward(self._tun, on=False)
            await nft("delete", "table", "inet", PREFIX + self._tun)

    async def _sweep(self) -> None:
        """Undo what servers left that were killed: those whose TUN is gone, or is ours now."""
        for name in await _nat_tables():
            dev = name.removeprefix(PREFIX)
            if dev != self._tun and (_IPV4 / dev).is_dir():
                continue
            _log.warning("NAT that a server left behind is removed (%s)", printable(dev))
            for uplink in await devices_in(name, _SWITCHED):
                if uplink not in await self._relied_on():
                    _forward(uplink, on=False)
            await nft("delete", "table", "inet", name)

    async def _relied_on(self) -> set[str]:
        """The uplinks that other servers, which run, have switched on or found so."""
        names = [name for name in await _nat_tables() if name != PREFIX + self._tun]
        running = [name for name in names if (_IPV4 / name.removeprefix(PREFIX)).is_dir()]
        return {uplink for name in running for uplink in await devices_in(name, _SWITCHED)}


def _table(tun: str, uplink: str, switched: str, networks: Iterable[IPv4Network | IPv6Network]) -> str:
    """The table, as nft reads it."""
    rules = [
        f"{'ip' if network.version == 4 else 'ip6'} saddr {network} oifname {quoted(uplink)} masquerade"
        for network in networks
    ]
    return "\n".join([
        f"table inet {PREFIX}{tun} {{",
        device_set(_SWITCHED, [switched] if switched else []),
        "chain forward {",
        "type filter hook forward priority filter; policy accept;",
        f"meta nfproto ipv4 iifname @{_SWITCHED} ct state != {{ established, related }} drop",
        "}",
        "chain postrouting {",
        "type nat hook postrouting priority srcnat; policy accept;",
        *rules,
        "}",
        "}",
    ]) + "\n"  # fmt: skip


async def _nat_tables() -> list[str]:
    """The names of all tables of this kind."""
    return [name for name in await tables() if name.startswith(PREFIX) and is_device(name.removeprefix(PREFIX))]


@contextmanager
def _explained() -> Iterator[None]:
    """IPv4 goes its way where IPv6 cannot: that the machine does not let us is a warning."""
    try:
        yield
    except OSError as error:
        _log.warning("nat: this machine's forwarding of IPv6 cannot be changed: %s", error.strerror)


def _forwards(dev: str) -> bool:
    if not (_IPV4 / dev).is_dir():
        raise SystemRefused(f"nat: there is no interface {printable(dev)}", "name the one that leads out")
    try:
        return (_IPV4 / dev / "forwarding").read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def _forward(dev: str, *, on: bool) -> None:
    path = _IPV4 / dev / "forwarding"
    try:
        path.write_text("1\n" if on else "0\n", encoding="ascii")
    except OSError as error:
        if on:
            raise SystemRefused(
                f"nat: {path} cannot be set: {error.strerror}", "set it yourself, or leave 'nat' out"
            ) from error
        _log.warning("not restored: %s: %s", path, error.strerror)
