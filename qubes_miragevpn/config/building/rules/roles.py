# SPDX-License-Identifier: BSD-2-Clause
"""Rules about the end that a configuration is for: what it needs, what means nothing there. The table names each."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from qubes_miragevpn.config.building.rules.rule import Breach
from qubes_miragevpn.config.building.rules.tunnel import is_tap
from qubes_miragevpn.config.reading.collect import Settings


def client_role(settings: Settings) -> Breach | None:
    if settings.has("client") or (settings.has("tls-client") and settings.has("pull")):
        return None
    return Breach(None, "this is no client: 'client' is missing", "write 'client' (or 'tls-client' and 'pull')")


def own_address(settings: Settings) -> Breach | None:
    if settings.has("ifconfig") or settings.has("ifconfig-ipv6"):
        return None
    fix = "write 'ifconfig 10.1.0.2 10.1.0.1'; or 'client' (or 'server NETWORK NETMASK') if one end gives the addresses"
    return Breach(None, "nobody tells us our address: 'ifconfig' is missing", fix)


def addresses(settings: Settings) -> Breach | None:
    if any(settings.has(name) for name in ("server", "server-bridge", "server-ipv6")):
        return None
    said = ("ifconfig", "ifconfig-ipv6", "ifconfig-pool")
    if settings.value("mode") == "server" and (is_tap(settings) or any(settings.has(name) for name in said)):
        return None
    return Breach(None, "there are no addresses to give: 'server' is missing", "write 'server 10.8.0.0 255.255.255.0'")


_OF_WHO_CONNECTS = (
    "http-proxy", "socks-proxy", "connection", "auth-user-pass", "static-challenge", "inactive", "session-timeout",
)  # fmt: skip


def connecting_while_waiting(settings: Settings) -> Breach | None:
    for name in _OF_WHO_CONNECTS:
        if settings.has(name):
            problem = f"'{name}' is not supported at the end that waits ('tls-server' without a mode)"
            return Breach(settings.last(name), problem, "write it at the end that connects")
    return None


def redirect_without_remote(settings: Settings) -> Breach | None:
    entry = settings.last("redirect-gateway")
    if entry is None or any(_is_address(each.args[0]) for each in settings.all("remote")):
        return None
    problem = "'redirect-gateway' would lead the tunnel's own packets into it: nobody says where the other end is"
    return Breach(entry, problem, "add 'remote ADDRESS', or 'route' lines for the networks that are meant")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def remote(settings: Settings) -> Breach | None:
    if settings.has("remote") or settings.has("connection"):
        return None
    return Breach(None, "there is no server to connect to: 'remote' is missing", "write 'remote HOST PORT'")


def remote_beside_connection(settings: Settings) -> Breach | None:
    if settings.has("remote") and settings.has("connection"):
        entry = settings.last("remote")
        return Breach(entry, "'remote' has no effect beside <connection> blocks", "move it into a block of its own")
    return None


def proto_end(end: str) -> Callable[[Settings], Breach | None]:
    def check(settings: Settings) -> Breach | None:
        entry = settings.last("proto")
        if entry is not None and entry.args[0].end == end:
            return Breach(entry, f"'tcp-{end}' is the other end's protocol", "write 'proto tcp'")
        return None

    return check


_OF_CERTIFICATES = (
    "ca", "capath", "cert", "key", "pkcs12", "peer-fingerprint", "verify-hash", "verify-x509-name", "remote-cert-tls",
    "crl-verify", "auth-user-pass", "tls-auth", "tls-crypt", "tls-crypt-v2", "client", "tls-client", "pull",
    "tls-server", "remote-cert-ku", "remote-cert-eku", "tls-version-min", "tls-version-max", "tls-cipher",
    "tls-ciphersuites", "tls-groups", "tls-cert-profile", "data-ciphers", "data-ciphers-fallback", "static-challenge",
    "reneg-sec", "reneg-bytes", "reneg-pkts", "tls-remote",
)  # fmt: skip


def certificates_beside_static_key(settings: Settings) -> Breach | None:
    for name in _OF_CERTIFICATES:
        if settings.has(name):
            problem = f"'{name}' means nothing in the static key mode, which 'secret' asks for"
            return Breach(settings.last(name), problem, "remove 'secret', or this line")
    return None
