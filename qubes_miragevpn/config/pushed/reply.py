# SPDX-License-Identifier: BSD-2-Clause
"""A server's PUSH_REPLY to `PulledOptions`: through the rows' argument types, and through an allow-list.

What an option may do is decided here and nowhere else: one that is not in the table `_TAKEN` changes nothing, and is
recorded in `dropped`. Options that the session cannot work without (addresses, cipher, key derivation, redirection)
end it when they are not acceptable; the others are dropped and recorded. Nothing a server says is routed around the
tunnel, executed or repeated unprintably, and there is a bound on everything that adds up.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Interface
from typing import Any

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.building.compression import COMPRESS, comp_lzo
from qubes_miragevpn.config.building.inner import DnsOptions, Unusable, demand_unicast, ipv4_route, ipv6_route
from qubes_miragevpn.config.model import ClientConfig, LandmarkRoute, PulledOptions, Route
from qubes_miragevpn.config.pushed.tunnel import MIN_ONLINK6, end, finish
from qubes_miragevpn.config.reading.lexer import WordError, split_words
from qubes_miragevpn.config.rows.arguments import ArgumentError
from qubes_miragevpn.config.rows.routing import MAX_ROUTES
from qubes_miragevpn.config.rows.row import NoEffect, Row
from qubes_miragevpn.config.rows.table import ROWS
from qubes_miragevpn.crypto.suites import canonical_cipher

MAX_BYTES = 1 << 16  # of all options of one reply; openvpn's own server sends a few KiB
MAX_DROPPED = 64  # lines recorded
MAX_USERNAME = 128  # bytes, with the NUL that OpenVPN counts in
MIN_RENEG_SEC = 60.0  # a server may not make us renegotiate more often than this
MIN_MTU = 576

REDIRECT_KEPT = frozenset({"def1", "ipv6", "!ipv4", "block-local"})
"""Flags of redirect-gateway that mean something here; the others ask for a way around the tunnel."""

REDIRECT_AROUND = frozenset({"local", "autolocal"})
"""Those that mean something on a plain host besides."""

_NOPULL = frozenset(
    {
        "route",
        "route-ipv6",
        "route-ipv6-gateway",
        "route-metric",
        "redirect-gateway",
        "redirect-private",
        "block-ipv6",
        "dhcp-option",
        "dns",
    }
)
"""What ``route-nopull`` keeps out (OpenVPN's classes of routes and of DHCP options)."""


@dataclass
class Reply:
    """A reply while it is read."""

    config: ClientConfig
    values: dict[str, Any] = field(default_factory=dict)  # arguments of `PulledOptions`
    routes: list[Route] = field(default_factory=list)
    landmarks: list[LandmarkRoute] = field(default_factory=list)
    redirect: set[str] | None = None
    private: set[str] | None = None  # of redirect-private
    block_ipv6: bool = False
    dns: DnsOptions = field(default_factory=DnsOptions)
    ifconfig: tuple[IPv4Address, IPv4Address] | None = None
    ifconfig6: tuple[IPv6Interface, IPv6Address | None] | None = None
    topology: str | None = None
    gateway4: IPv4Address | None = None
    gateway6: IPv6Address | None = None
    metric: int | None = None
    mtu: int = 0
    dropped: list[str] = field(default_factory=list)
    more_dropped: int = 0

    def drop(self, what: str, why: str) -> None:
        """Record that an option has no effect."""
        if len(self.dropped) < MAX_DROPPED:
            self.dropped.append(f"{printable(what, 120)}: {why}")
        else:
            self.more_dropped += 1


def parse_push(
    options: tuple[str, ...], config: ClientConfig, remote: IPv4Address | IPv6Address | None
) -> PulledOptions:
    """Read the options of a whole PUSH_REPLY, split at its commas, without push-continuation.

    The result also holds what `config` itself says about routes, redirection, DNS and MTU, so that its `tunnel` is
    all that the host must know. `remote` is the server's outer address; a route to it into the tunnel is dropped.
    Raises `PeerError` (end of session).
    """
    if sum(len(option) + 1 for option in options) > MAX_BYTES:
        raise end(f"the server pushed more than {MAX_BYTES} bytes of options")
    reply = Reply(config, dns=DnsOptions(whole=config.around))
    for option in options:
        if option and _filtered(option, config, reply):
            _take(option, reply)
    return finish(reply, remote)


def _filtered(option: str, config: ClientConfig, reply: Reply) -> bool:
    """Run ``pull-filter``: the first that matches decides; True if the option is to be read."""
    for rule in config.pull_filters:
        if option.lstrip(" ").startswith(rule.text):
            if rule.action == "reject":
                raise end(f"the server pushed what pull-filter rejects: '{printable(rule.text, 60)}'")
            if rule.action == "ignore":
                reply.drop(option.split(" ")[0], "ignored by pull-filter")
            return rule.action == "accept"
    return True


def _take(option: str, reply: Reply) -> None:
    """Read one option and let its handler take it."""
    try:
        words = split_words(option)
    except WordError as error:
        reply.drop("(unreadable option)", str(error))
        return
    if not words:
        return
    row = ROWS.get(words[0])
    if row is None or row.pushed is None:
        reply.drop(words[0][:40], "not taken from a server")
    elif isinstance(row.pushed, NoEffect):
        reply.drop(row.name, row.pushed.reason)
    elif reply.config.route_nopull and row.name in _NOPULL:
        reply.drop(_shown(row, words), "the profile says route-nopull")
    else:
        _apply(row, words, reply)


def _apply(row: Row, words: tuple[str, ...], reply: Reply) -> None:
    handler, vital = _TAKEN[row.name]
    try:
        handler(reply, *row.read(words[1:]))
    except (ArgumentError, Unusable) as error:
        if vital:
            raise end(f"the server pushed an unacceptable '{row.name}': {error}") from None
        reply.drop(_shown(row, words), str(error))


def _shown(row: Row, words: tuple[str, ...]) -> str:
    return row.name if row.secret else " ".join(words)


# --- handlers: one per option, the reply and the row's values -------------------------------------------


def _keep(name: str) -> Callable[..., None]:
    def handler(reply: Reply, value: Any) -> None:
        reply.values[name] = value

    return handler


def _on_ifconfig(reply: Reply, local: IPv4Address, other: IPv4Address) -> None:
    demand_unicast(local)
    reply.ifconfig = (local, other)


def _on_ifconfig6(reply: Reply, local: IPv6Interface, remote: IPv6Address | None) -> None:
    demand_unicast(local.ip)
    if local.network.prefixlen < MIN_ONLINK6:
        raise Unusable(f"a prefix of /{local.network.prefixlen} is too short")
    if remote is not None and not remote.is_link_local:
        demand_unicast(remote)
    reply.ifconfig6 = (local, remote)


def _on_topology(reply: Reply, topology: str) -> None:
    reply.topology = topology


def _on_route(reply: Reply, *values: Any) -> None:
    _add_route(reply, ipv4_route(*values, around=reply.config.around))


def _on_route6(reply: Reply, *values: Any) -> None:
    _add_route(reply, ipv6_route(*values, around=reply.config.around))


def _add_route(reply: Reply, route: Route | LandmarkRoute) -> None:
    if len(reply.routes) + len(reply.landmarks) >= MAX_ROUTES:
        raise Unusable(f"more than {MAX_ROUTES} routes")
    if isinstance(route, Route):
        reply.routes.append(route)
    else:
        reply.landmarks.append(route)


def _on_route_gateway(reply: Reply, gateway: IPv4Address | None) -> None:
    if gateway is not None:
        demand_unicast(gateway)
    reply.gateway4 = gateway


def _on_route_gateway6(reply: Reply, gateway: IPv6Address) -> None:
    if not gateway.is_link_local:
        demand_unicast(gateway)
    reply.gateway6 = gateway


def _on_route_metric(reply: Reply, metric: int) -> None:
    reply.metric = metric


def _on_redirect(reply: Reply, *flags: str) -> None:
    reply.redirect = (reply.redirect or set()) | _redirect_flags(reply, "redirect-gateway", flags)


def _on_private(reply: Reply, *flags: str) -> None:
    reply.private = (reply.private or set()) | _redirect_flags(reply, "redirect-private", flags)


def _redirect_flags(reply: Reply, name: str, flags: tuple[str, ...]) -> set[str]:
    kept = REDIRECT_KEPT | REDIRECT_AROUND if reply.config.around else REDIRECT_KEPT
    for flag in flags:
        if flag not in kept:
            around = "no effect, as with openvpn on Linux", "nothing is routed around the tunnel"
            reply.drop(f"{name} {flag}", around[not reply.config.around])
    return set(kept) & set(flags)


def _on_dhcp_option(reply: Reply, kind: str, *values: str) -> None:
    reply.dns.dhcp_option(kind, *values)


def _on_dns(reply: Reply, what: str, *values: str) -> None:
    reply.dns.dns(what, *values)


def _on_block_ipv6(reply: Reply) -> None:
    reply.block_ipv6 = True


def _on_mtu(reply: Reply, mtu: int) -> None:
    most = max(reply.config.common.tun_mtu_max, reply.config.common.tun_mtu)
    if not MIN_MTU <= mtu <= most:
        raise Unusable(f"{mtu} is not from {MIN_MTU} to {most}; write 'tun-mtu-max {mtu}' into the profile")
    reply.mtu = mtu


def _on_ping_restart(reply: Reply, after: float) -> None:
    reply.values |= {"ping_restart": after, "ping_exit": 0.0}  # openvpn has one such timer: the last word counts


def _on_ping_exit(reply: Reply, after: float) -> None:
    reply.values |= {"ping_exit": after, "ping_restart": 0.0}


def _on_inactive(reply: Reply, after: float, least: int | None) -> None:
    reply.values["inactive"] = (after, least or 0)


def _on_reneg_sec(reply: Reply, after: float, _: float | None) -> None:
    own = reply.config.common.timers.reneg_sec
    if after < MIN_RENEG_SEC or 0 < own < after:
        raise Unusable(f"less than {MIN_RENEG_SEC:g} s or more than our own {own:g} s")
    reply.values["reneg_sec"] = after


def _on_auth_token(reply: Reply, token: str) -> None:
    reply.values["auth_token"] = Secret(token.encode())


def _on_auth_token_user(reply: Reply, encoded: str) -> None:
    try:
        name = base64.b64decode(encoded, validate=True).decode("utf-8")
    except ValueError:
        raise Unusable("it is not UTF-8 in base64") from None
    if not name.isprintable() or not 0 < len(name.encode()) < MAX_USERNAME:
        raise Unusable("this is no user name")
    reply.values["auth_token_user"] = name


def _on_exit_notify(reply: Reply, times: int | None) -> None:
    reply.values["explicit_exit_notify"] = 1 if times is None else times


def _on_cipher(reply: Reply, name: str) -> None:
    cipher = canonical_cipher(name)
    common = reply.config.common
    if cipher is None or cipher not in {*common.data_ciphers, common.data_ciphers_fallback}:
        raise Unusable(f"{printable(name, 40)} is not among our data-ciphers {':'.join(common.data_ciphers)}")
    reply.values["cipher"] = cipher


def _on_key_derivation(reply: Reply, _method: str) -> None:
    reply.values["key_derivation_ekm"] = True


def _on_protocol_flags(reply: Reply, *flags: str) -> None:
    reply.values["cc_exit"] = "cc-exit" in flags
    reply.values["dynamic_tls_crypt"] = "dyn-tls-crypt" in flags
    reply.values["epoch"] = "aead-epoch" in flags
    if "tls-ekm" in flags:
        reply.values["key_derivation_ekm"] = True


def _on_comp_lzo(reply: Reply, how: str | None) -> None:
    reply.values["compression"] = comp_lzo(how)


def _on_compress(reply: Reply, how: str | None) -> None:
    if how not in COMPRESS:
        raise Unusable(f"no framing is called '{how}'")
    reply.values["compression"] = COMPRESS[how]


_TAKEN: Mapping[str, tuple[Callable[..., None], bool]] = {
    "ifconfig": (_on_ifconfig, True),
    "ifconfig-ipv6": (_on_ifconfig6, True),
    "topology": (_on_topology, True),
    "route": (_on_route, False),
    "route-ipv6": (_on_route6, False),
    "route-gateway": (_on_route_gateway, False),
    "route-ipv6-gateway": (_on_route_gateway6, False),
    "route-metric": (_on_route_metric, False),
    "redirect-gateway": (_on_redirect, True),
    "redirect-private": (_on_private, True),
    "dhcp-option": (_on_dhcp_option, False),
    "dns": (_on_dns, False),
    "block-ipv6": (_on_block_ipv6, False),
    "tun-mtu": (_on_mtu, True),
    "ping": (_keep("ping"), False),
    "ping-restart": (_on_ping_restart, False),
    "ping-exit": (_on_ping_exit, False),
    "reneg-sec": (_on_reneg_sec, False),
    "inactive": (_on_inactive, False),
    "session-timeout": (_keep("session_timeout"), False),
    "auth-token": (_on_auth_token, False),
    "auth-token-user": (_on_auth_token_user, False),
    "explicit-exit-notify": (_on_exit_notify, False),
    "peer-id": (_keep("peer_id"), True),
    "cipher": (_on_cipher, True),
    "key-derivation": (_on_key_derivation, True),
    "protocol-flags": (_on_protocol_flags, True),
    "comp-lzo": (_on_comp_lzo, True),
    "compress": (_on_compress, True),
}
"""Handler of each option that is taken, and whether the session ends when it is not acceptable."""
