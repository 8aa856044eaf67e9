# SPDX-License-Identifier: BSD-2-Clause
"""What a configuration will do, in words: one heading and one or more lines for each subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qubes_miragevpn.base.text import printable

if TYPE_CHECKING:
    from qubes_miragevpn.config.model import (
        ClientConfig,
        ControlWrap,
        Listen,
        PointClient,
        PointServer,
        Remote,
        Route,
        ServerConfig,
        StaticConfig,
    )


def of_client(config: ClientConfig) -> dict[str, list[str]]:
    """A client profile."""
    said = {"servers": [_remote(remote) for remote in config.remotes]}
    if len(config.remotes) > 1:
        said["order"] = ["random" if config.remote_random else "as listed"]
    said |= {**_common(config), "log in": _login(config)}
    routes = [_route(route) for route in config.routes]
    if config.redirect is not None:
        routes.insert(
            0, "everything into the tunnel" + (f" ({' '.join(sorted(config.redirect))})" * bool(config.redirect))
        )
    if config.redirect_private is not None:
        routes.insert(0, f"not the default route ({' '.join(('redirect-private', *sorted(config.redirect_private)))})")
    if config.route_nopull:
        routes.append("the server's routes and DNS are not taken")
    said["routes"] = routes or ["those that the server pushes"]
    dns = [str(server) for server in config.dns.servers] + [f"search {name}" for name in config.dns.search]
    said["DNS"] = dns or ["what the server pushes"]
    return said


def of_static(config: StaticConfig) -> dict[str, list[str]]:
    """A file of the static key mode."""
    client, common = config.client, config.client.common
    routes = [_route(route) for route in client.routes]
    ways = "the same both ways" if config.direction is None else f"direction {config.direction}"
    return {
        "other end": [_remote(remote) for remote in client.remotes],
        "key": [f"one key for good, {ways}: whoever learns it can read all that was recorded"],
        "data": [f"{config.cipher} with an HMAC of {common.digest}"],
        "addresses": list(config.tunnel),
        "keep-alive": [_keepalive(client)],
        "interface": [f"{common.dev}, MTU {common.tun_mtu}"],
        "routes": routes or ["none"],
    }


def of_point_client(config: PointClient) -> dict[str, list[str]]:
    """The end of a TLS tunnel between two that connects."""
    return {"other end": [_remote(remote) for remote in config.client.remotes], **_of_either(config)}


def of_point_server(config: PointServer) -> dict[str, list[str]]:
    """The end that waits."""
    said = {"listens on": [_listens(config.listen)]}
    if config.only:
        said["other end"] = [f"only from {', '.join(map(str, config.only))}"]
    return {**said, **_of_either(config)}


def _of_either(config: PointClient | PointServer) -> dict[str, list[str]]:
    client = config.client
    routes = [_route(route) for route in client.routes]
    if client.redirect is not None:
        routes.insert(0, "everything into the tunnel")
    return {**_common(client), "addresses": list(config.tunnel), "routes": routes or ["none"]}


def _listens(listen: Listen) -> str:
    where = listen.address or {"ipv4": "every IPv4 address", "ipv6": "every IPv6 address"}.get(
        listen.family.value, "every address"
    )
    return f"{where} port {listen.port}, {listen.proto.value}"


def of_server(config: ServerConfig) -> dict[str, list[str]]:
    """A server's configuration."""
    several = "several with one name" if config.duplicate_cn else "one for each name"
    among = "reach each other" if config.client_to_client else "do not reach each other"
    return {
        "listens on": [_listens(place) for place in config.places],
        "addresses": [_addresses(config)],
        "clients": [f"at most {config.max_clients}, {several}; they {among}"],
        **_common(config),
        "pushes": list(config.push) or ["nothing but addresses"],
    }


def _addresses(config: ServerConfig) -> str:
    if config.bridge is not None and config.network is None:
        return "those of a bridge's network, by DHCP"
    if config.bridge is not None:
        return f"those of a bridge: {config.network}, from {' to '.join(map(str, config.pool or ()))}"
    networks = [str(network) for network in (config.network, config.network6) if network is not None]
    own = [str(address) for address in (config.address, config.address6) if address is not None]
    return f"{', '.join(networks)}, of them {', '.join(own)} for the server (topology {config.topology})"


def _common(config: ClientConfig | ServerConfig) -> dict[str, list[str]]:
    common = config.common
    newest = f" to {_version(common.tls.maximum)}" if common.tls.maximum else " or newer"
    size = f"mssfix {common.mssfix}" if common.mssfix else "mssfix off"
    fallback = f" (fallback {common.data_ciphers_fallback})" if common.data_ciphers_fallback else ""
    return {
        "control channel": [_wrap(config.common.wrap), f"TLS {_version(common.tls.minimum)}{newest}"],
        "peer must have": _peer(config),
        "data ciphers": [", ".join(common.data_ciphers) + fallback],
        "keep-alive": [_keepalive(config)],
        "interface": [f"{common.dev}, MTU {common.tun_mtu}, {size}"],
    }


def _wrap(wrap: ControlWrap) -> str:
    from qubes_miragevpn.config.model import TlsAuth, TlsCrypt, TlsCryptV2Client, TlsCryptV2Server

    match wrap:
        case TlsCrypt():
            return "tls-crypt: encrypted and authenticated by a shared key"
        case TlsCryptV2Client():
            return "tls-crypt-v2: encrypted and authenticated by a key of this client's own"
        case TlsCryptV2Server(beside=beside):
            return "tls-crypt-v2: encrypted and authenticated by a key of each client's own" + (
                "" if beside is None else f"; without one, {_wrap(beside)}"
            )
        case TlsAuth(direction=direction, digest=digest):
            shown = "no direction" if direction is None else f"direction {direction}"
            return f"tls-auth: authenticated by a shared key ({digest}, {shown})"
        case _:
            return "without a shared key"


def _peer(config: ClientConfig | ServerConfig) -> list[str]:
    peer = config.common.peer
    said = []
    if peer.ca_pem:
        count = peer.ca_pem.count(b"-----BEGIN CERTIFICATE-----")
        said.append("a certificate under the profile's CA" + (f" certificates ({count})" if count > 1 else ""))
    if peer.fingerprints:
        said.append(f"one of {len(peer.fingerprints)} certificate fingerprints")
    if peer.remote_cert_tls:
        said.append(f"a {peer.remote_cert_tls}'s certificate")
    if peer.name:
        what = {"subject": "the subject", "name": "the name", "name-prefix": "a name that begins with"}[
            peer.name.type.value
        ]
        said.append(f"{what} '{printable(peer.name.expected, 255)}'")
    return said


def _login(config: ClientConfig) -> list[str]:
    said = ["with the profile's certificate"] if config.common.identity else []
    if config.auth_user_pass:
        source = "from the profile" if config.credentials else "asked for"
        said.append(f"with user name and password, {source}")
    return said


def _keepalive(config: ClientConfig | ServerConfig) -> str:
    timers = config.common.timers
    said = [f"a sign of life after {timers.ping:g} s"] if timers.ping else []
    if timers.ping_restart:
        what = "the client is dropped" if not hasattr(config, "remotes") else "connect again"
        said.append(f"{what} after {timers.ping_restart:g} s of silence")
    if timers.ping_exit:
        said.append(f"end after {timers.ping_exit:g} s of silence")
    return "; ".join(said) or "off"


def _remote(remote: Remote) -> str:
    family = f" over {remote.family.value}" if remote.family.value != "any" else ""
    return f"{remote.host} port {remote.port}, {remote.proto.value}{family}{_proxy(remote)}"


def _proxy(remote: Remote) -> str:
    from qubes_miragevpn.config.model import HttpProxy

    proxy = remote.proxy
    if proxy is None:
        return ""
    kind = "HTTP" if isinstance(proxy, HttpProxy) else "SOCKS5"
    login = " with a login" if proxy.credentials is not None else ""
    if proxy.asks:
        login = " with a login that is asked for"
    return f", through the {kind} proxy {proxy.host} port {proxy.port}{login}"


def _route(route: Route) -> str:
    return f"{route.network}" + (f" by {route.gateway}" if route.gateway else "")


def _version(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
