# SPDX-License-Identifier: BSD-2-Clause
"""NAT of a server (``nat``): its clients leave by this machine's uplink, under this machine's address.

A table of nftables of its own for each TUN, and IPv4 forwarding of two interfaces: the TUN and the uplink. What was
closed before stays closed: where forwarding of the uplink is switched on here, new connections from there are dropped.
The table names that uplink, so that the next start can undo what a killed server left. IPv6 is translated where this
machine forwards it already: to switch that on would change how it takes router advertisements.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.rows.arguments import DEVICE

PREFIX = "miragevpn-nat-"
TIMEOUT = 10.0  # seconds that nft may take
MAX_LISTING = 1 << 20
_IPV4 = Path("/proc/sys/net/ipv4/conf")
_IPV6 = Path("/proc/sys/net/ipv6/conf/all/forwarding")

_log = logging.getLogger("miragevpn.host")


class Nat:
    """The NAT of one TUN. Use from one event loop; raises `SystemRefused`."""

    def __init__(self, tun: str, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        """`networks`: whose packets are translated."""
        self._tun = tun
        self._networks = tuple(networks)
        self._switched = ""  # the uplink, if we switched its forwarding on
        self._up = False

    async def up(self, uplink: str) -> None:
        """Set it up for packets that leave by the interface `uplink`."""
        await self._sweep()
        self._switched = "" if _forwards(uplink) else uplink
        self._up = True
        await _nft("-f", "-", text=_table(self._tun, uplink, self._switched, self._networks))
        for dev in (self._tun, self._switched):
            if dev:
                _forward(dev, on=True)
        if any(network.version == 6 for network in self._networks) and _read(_IPV6) != "1":
            _log.warning("nat: this machine does not forward IPv6 (net.ipv6.conf.all.forwarding), and that is left so")
        _log.info("clients leave by %s", uplink)

    async def close(self) -> None:
        """Undo it; what another server needs stays. What cannot be undone is logged."""
        if self._up:
            self._up = False
            try:
                await self._undo()
            except SystemRefused as error:
                _log.warning("not undone: %s", error)

    async def _undo(self) -> None:
        others = [name for name in await _tables() if name != PREFIX + self._tun]
        if self._switched and not others:
            _forward(self._switched, on=False)
        await _nft("delete", "table", "inet", PREFIX + self._tun)

    async def _sweep(self) -> None:
        """Undo what servers left that were killed: those whose TUN is gone, or is ours now."""
        for name in await _tables():
            dev = name.removeprefix(PREFIX)
            if dev != self._tun and (_IPV4 / dev).is_dir():
                continue
            _log.warning("NAT that a server left behind is removed (%s)", printable(dev))
            for uplink in await _left_switched(name):
                _forward(uplink, on=False)
            await _nft("delete", "table", "inet", name)


def _table(tun: str, uplink: str, switched: str, networks: Iterable[IPv4Network | IPv6Network]) -> str:
    """The table, as nft reads it."""
    rules = [
        f'{"ip" if network.version == 4 else "ip6"} saddr {network} oifname "{uplink}" masquerade'
        for network in networks
    ]
    elements = f'elements = {{ "{switched}" }}' if switched else ""
    return "\n".join([
        f"table inet {PREFIX}{tun} {{",
        f"set switched {{ type ifname; {elements} }}",
        "chain forward {",
        "type filter hook forward priority filter; policy accept;",
        "iifname @switched ct state != { established, related } drop",
        "}",
        "chain postrouting {",
        "type nat hook postrouting priority srcnat; policy accept;",
        *rules,
        "}",
        "}",
    ]) + "\n"  # fmt: skip


async def _tables() -> list[str]:
    """The names of all tables of this kind."""
    listing = json.loads(await _nft("-j", "list", "tables", "inet"))["nftables"]
    names = [str(item["table"]["name"]) for item in listing if "table" in item]
    return [name for name in names if name.startswith(PREFIX) and _is_device(name.removeprefix(PREFIX))]


async def _left_switched(table: str) -> list[str]:
    """The uplinks that the server of this table switched on."""
    listing = json.loads(await _nft("-j", "list", "set", "inet", table, "switched"))["nftables"]
    found = [each for item in listing if "set" in item for each in item["set"].get("elem", ())]
    return [each for each in found if isinstance(each, str) and _is_device(each)]


def _is_device(name: str) -> bool:
    try:
        DEVICE.parse(name)
    except ValueError:
        return False
    return name not in (".", "..")


def _forwards(dev: str) -> bool:
    if not (_IPV4 / dev).is_dir():
        raise SystemRefused(f"nat: there is no interface {printable(dev)}", "name the one that leads out")
    return _read(_IPV4 / dev / "forwarding") == "1"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


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


async def _nft(*arguments: str, text: str = "") -> bytes:
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            "nft", *arguments, stdin=pipe, stdout=pipe, stderr=pipe, limit=MAX_LISTING
        )
    except OSError as error:
        raise SystemRefused(f"nat: nft cannot be run: {error.strerror}", "install nftables") from error
    try:
        output, complaint = await asyncio.wait_for(process.communicate(text.encode()), TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise SystemRefused("nat: nft does not answer", "look what holds it up") from None
    if process.returncode:
        raise SystemRefused(f"nat: nft: {printable(complaint, 300)}", "leave 'nat' out, or see what nft says")
    return output
