# SPDX-License-Identifier: BSD-2-Clause
"""Models to canonical text: what a configuration says, self-contained, with every key and certificate inline.

`parse(render(x)) == x` for every model, as long as secrets are shown. What a row fills by itself (`Row.fills`) is
rendered by that row; here is only what takes more than one directive to say. What has no inline form is refused: a
directory of revoked serial numbers, and passwords for a proxy that are not the same for all of them.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import (
    ClientConfig,
    Command,
    Common,
    Compression,
    Credentials,
    Dns,
    Family,
    Frequency,
    HttpProxy,
    Identity,
    Landmark,
    LandmarkRoute,
    Listen,
    Local,
    LoginRules,
    NoWrap,
    Operating,
    Pam,
    PasswordFile,
    PeerPolicy,
    PointClient,
    PointServer,
    Proto,
    Proxy,
    Remote,
    Route,
    ServerConfig,
    StaticConfig,
    Timers,
    TlsAuth,
    TlsChoices,
    TlsCrypt,
    TlsCryptV2Client,
    TlsCryptV2Server,
    TlsVersions,
)
from qubes_miragevpn.config.quoting import line_of
from qubes_miragevpn.config.rows.serving import NOGW
from qubes_miragevpn.config.rows.table import SUBJECTS
from qubes_miragevpn.crypto.digests import INSECURE_DIGESTS
from qubes_miragevpn.crypto.keyfiles import (
    ClientKey,
    render_client_key,
    render_server_key,
    render_static_key,
    render_token_secret,
)
from qubes_miragevpn.crypto.suites import SUITES

Target = IPv4Network | IPv6Network | Landmark

HIDDEN = "# (secret)"
_LEVELS = ("insecure", "legacy", "preferred", "suiteb")
_FAMILIES = {Family.ANY: "", Family.IPV4: "4", Family.IPV6: "6"}


Model = ClientConfig | ServerConfig | StaticConfig | PointClient | PointServer


def render(config: Model, *, show_secrets: bool = False) -> str:
    """The text of `config`; keys and passwords are replaced by a comment unless they are to be shown."""
    writer = _Writer(show_secrets)
    match config:
        case ClientConfig():
            lines = writer.client(config)
        case ServerConfig():
            lines = writer.server(config)
        case StaticConfig():
            lines = writer.static(config)
        case PointClient():
            lines = writer.point_client(config)
        case PointServer():
            lines = writer.point_server(config)
    return "\n".join(lines) + "\n"


def _filled(model: Any) -> Iterator[str]:
    """The directives whose rows fill a field of `model` that is not at its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(model)}
    for row in (row for rows in SUBJECTS.values() for row in rows):
        if row.fills is None or row.fills[0] is not type(model):
            continue
        value = getattr(model, row.fills[1])
        if value != defaults[row.fills[1]]:
            yield row.name if value is True else line_of(row.name, value)


def _operating(operating: Operating) -> Iterator[str]:
    for name, file in (("status", operating.status), ("metrics", operating.metrics)):
        if file is not None:
            yield line_of(name, file.path, int(file.period))
    if operating.management is not None:
        yield line_of("management", operating.management, "unix")
    yield from _filled(operating)


class _Writer:
    """Makes lines; knows whether secrets may be in them."""

    def __init__(self, show_secrets: bool) -> None:
        self._show = show_secrets

    def _block(self, name: str, content: str, *, secret: bool = False) -> str:
        if secret and not self._show:
            content = HIDDEN
        return f"<{name}>\n{content.rstrip()}\n</{name}>"

    # --- roles ---------------------------------------------------------------------------------------

    def client(self, config: ClientConfig) -> Iterator[str]:
        """A client profile."""
        yield "client"
        yield from self._remotes(config.remotes, config.common)
        yield from self._common(config.common, Timers())
        yield from self._own(config)

    def point_client(self, config: PointClient) -> Iterator[str]:
        """The end of a TLS tunnel between two that connects."""
        yield "tls-client"
        yield from self._remotes(config.client.remotes, config.client.common, bound=True)
        yield from config.tunnel
        yield from self._common(config.client.common, Timers(ping_restart=0.0))
        yield from self._own(config.client)

    def point_server(self, config: PointServer) -> Iterator[str]:
        """The end that waits."""
        yield "tls-server"
        yield from _listen(config.listen)
        yield from (line_of("remote", address) for address in config.only)
        yield from config.tunnel
        yield from self._common(config.common, Timers(ping_restart=0.0))
        yield from self._own(config.client)

    def _own(self, config: ClientConfig) -> Iterator[str]:
        """What only those who are no servers have."""
        yield from _filled(config)
        if config.replay_persist:
            yield line_of("replay-persist", config.replay_persist)
        if config.auth_user_pass:
            yield self._login(config)
        if config.static_challenge is not None:
            asked = config.static_challenge
            yield line_of("static-challenge", asked.text, int(asked.echo), "concat" if asked.concat else None)
        yield from _inner(config)
        yield from (line_of("setenv", name, value) for name, value in config.peer_info)
        yield from (line_of("pull-filter", rule.action, rule.text) for rule in config.pull_filters)

    def server(self, config: ServerConfig) -> Iterator[str]:
        """A server's configuration."""
        if isinstance(config.common.wrap, NoWrap):
            yield "setenv opt allow-plain-tls"
        yield from _addresses(config)
        if config.nat is not None:
            yield line_of("nat", config.nat or None)
        if config.persist is not None:
            yield line_of("ifconfig-pool-persist", config.persist.path, int(config.persist.period))
        yield from map(_place, config.places) if config.beside else _listen(config.listen)
        yield from self._common(config.common, Timers(ping_restart=0.0))
        yield from _filled(config)
        if config.first_packets != ServerConfig.first_packets:
            yield _frequency("connect-freq-initial", config.first_packets)
        if config.new_clients is not None:
            yield _frequency("connect-freq", config.new_clients)
        yield from _operating(config.operating)
        if config.client_dir is not None:
            yield line_of("client-config-dir", config.client_dir.path)
            if config.client_dir.exclusive:
                yield "ccd-exclusive"
        yield from (_route(route.network, route) for route in config.routes)
        if config.common.peer.certificate != PeerPolicy.certificate:
            yield line_of("verify-client-cert", config.common.peer.certificate)
        if config.login is not None:
            yield from self._logins(config.login)
        yield from (line_of("push", option) for option in config.push)

    def _logins(self, rules: LoginRules) -> Iterator[str]:
        match rules.method:
            case PasswordFile(path):
                yield line_of("auth-user-pass-file", path)
            case Pam(service):
                yield line_of("auth-pam", service)
            case Command(words, by_file):
                yield line_of("auth-user-pass-verify", shlex.join(words), "via-file" if by_file else "via-env")
        yield from _filled(rules)
        if rules.tokens is not None:
            yield line_of("auth-gen-token", int(rules.tokens.lifetime), int(rules.tokens.renewal))
            if rules.tokens.secret is not None:
                text = render_token_secret(rules.tokens.secret)
                yield self._block("auth-gen-token-secret", text, secret=True)

    def static(self, config: StaticConfig) -> Iterator[str]:
        """A file of the static key mode."""
        client = config.client
        yield "allow-deprecated-insecure-static-crypto"
        yield self._key("secret", config.key)
        if config.direction is not None:
            yield line_of("key-direction", config.direction)
        yield line_of("cipher", config.cipher)
        yield from _insecure((client.common.digest,))
        yield line_of("auth", client.common.digest)
        if (listen := config.listen) is not None:
            yield from _listen(listen, end="-server" if listen.proto is Proto.TCP else "")
            yield from (line_of("remote", address) for address in config.only)
        else:
            yield from self._remotes(client.remotes, client.common, bound=True)
        yield from _device(client.common)
        yield from config.tunnel
        yield from self._session(client.common)
        yield from _timers(client.common.timers, Timers(ping_restart=0.0))
        yield from _compression(client.common)
        if client.replay_persist:
            yield line_of("replay-persist", client.replay_persist)
        yield from _filled(client)
        yield from _inner(client)

    def _login(self, config: ClientConfig) -> str:
        if config.credentials is not None:
            return self._block("auth-user-pass", _two_lines(config.credentials), secret=True)
        return "auth-user-pass" if config.username is None else self._block("auth-user-pass", config.username)

    # --- remotes -------------------------------------------------------------------------------------

    def _remotes(self, remotes: tuple[Remote, ...], common: Common, *, bound: bool = False) -> Iterator[str]:
        """`bound`: sockets have a port of their own where nothing is said."""
        ends = {remote.local for remote in remotes}
        if len(ends) == 1 and all(remote.proxy is None and remote.common is None for remote in remotes):
            if bound or ends != {Local()}:
                yield from _local(*ends)
            yield from (_remote(remote) for remote in remotes)
            return
        yield from self._proxy_login(remotes)
        for remote in remotes:
            lines = [_remote(remote), *_local(remote.local), *self._proxy(remote.proxy)]
            if remote.common is not None:
                lines += self._differences(remote.common, common)
            yield "<connection>\n" + "\n".join(lines) + "\n</connection>"

    def _proxy(self, proxy: Proxy | None) -> Iterator[str]:
        if isinstance(proxy, HttpProxy):
            yield from _http_proxy(proxy)
        elif proxy is not None:
            if proxy.credentials is not None and self._show:
                raise _apart("a SOCKS proxy", f"socks-proxy {proxy.host} {proxy.port} FILE")
            login = f" {HIDDEN}" if proxy.credentials else " stdin" if proxy.asks else ""
            yield line_of("socks-proxy", proxy.host, proxy.port) + login

    def _proxy_login(self, remotes: tuple[Remote, ...]) -> Iterator[str]:
        """One password for all HTTP proxies is all that the language can say inline."""
        proxies = [remote.proxy for remote in remotes if isinstance(remote.proxy, HttpProxy)]
        named = {proxy.credentials for proxy in proxies}
        if named <= {None}:
            return
        if self._show and (len(named) > 1 or any("digest" not in proxy.methods for proxy in proxies)):
            raise _apart("an HTTP proxy", "http-proxy HOST PORT FILE METHOD")
        yield from (self._block("http-proxy-user-pass", _two_lines(one), secret=True) for one in named if one)

    def _differences(self, own: Common, common: Common) -> Iterator[str]:
        """What a block says: what its settings say and the profile's do not."""
        said = set(self._wrapped(common)) | set(self._session(common))
        yield from (line for line in (*self._wrapped(own), *self._session(own)) if line not in said)
        if own.timers.connect_timeout != common.timers.connect_timeout:
            yield line_of("connect-timeout", own.timers.connect_timeout)

    # --- what both roles share -----------------------------------------------------------------------

    def _common(self, common: Common, usual: Timers) -> Iterator[str]:
        yield from _device(common)
        yield from self._wrapped(common)
        yield from self._identity(common.identity)
        yield from self._peer(common.peer)
        yield from _versions(common.tls)
        yield from _choices(common.choices)
        yield from _ciphers(common)
        yield from self._session(common)
        yield from _timers(common.timers, usual)
        yield from _compression(common)

    def _session(self, common: Common) -> Iterator[str]:
        yield line_of("mssfix", common.mssfix, (common.mssfix_of.value or None) if common.mssfix else None)
        if common.fragment:
            yield line_of("fragment", common.fragment, common.fragment_of.value or None)
        yield line_of("explicit-exit-notify", common.explicit_exit_notify)
        if (common.replay_window, common.replay_time) != (Common.replay_window, Common.replay_time):
            yield line_of("replay-window", common.replay_window, common.replay_time)
        yield from _filled(common)

    def _wrapped(self, common: Common) -> Iterator[str]:
        match common.wrap:
            case TlsAuth(key, direction):
                yield self._key("tls-auth", key)
                if direction is not None:
                    yield line_of("key-direction", direction)
            case TlsCrypt(key):
                yield self._key("tls-crypt", key)
            case TlsCryptV2Client(key, wrapped):
                yield self._block("tls-crypt-v2", render_client_key(ClientKey(key, wrapped)), secret=True)
            case TlsCryptV2Server(key, beside, force_cookie, age, verify):
                if force_cookie:
                    yield "tls-crypt-v2 [inline] force-cookie"
                yield self._block("tls-crypt-v2", render_server_key(key), secret=True)
                if age:
                    yield line_of("tls-crypt-v2-max-age", age)
                if verify:
                    yield line_of("tls-crypt-v2-verify", shlex.join(verify))
                if beside is not None:
                    yield from self._wrapped(dataclasses.replace(common, wrap=beside))

    def _key(self, name: str, key: Secret) -> str:
        return self._block(name, render_static_key(key.reveal()), secret=True)

    def _identity(self, identity: Identity | None) -> Iterator[str]:
        if identity is not None:
            yield self._block("cert", identity.chain_pem.decode("ascii", "replace"))
            yield self._block("key", identity.key_pem.reveal().decode("ascii", "replace"), secret=True)

    def _peer(self, peer: PeerPolicy) -> Iterator[str]:
        if peer.revoked_serials is not None:
            raise ConfigError(
                "a directory of revoked serial numbers cannot be written into one file",
                fix="make a list of them and give it as <crl-verify>",
            )
        if peer.ca_pem:
            yield self._block("ca", peer.ca_pem.decode("ascii", "replace"))
        if peer.crl_pem:
            yield self._block("crl-verify", peer.crl_pem.decode("ascii", "replace"))
        if peer.fingerprints:
            yield self._block("peer-fingerprint", "\n".join(sorted(one.hex(":") for one in peer.fingerprints)))
        if peer.remote_cert_tls:
            yield line_of("remote-cert-tls", peer.remote_cert_tls)
        if peer.name is not None:
            yield line_of("verify-x509-name", peer.name.expected, peer.name.type.value)
        for one in sorted(peer.issuer_hashes):
            yield line_of("verify-hash", one.hex(":"), "SHA1" if len(one) == 20 else None)
        if peer.key_usages is not None:
            yield line_of("remote-cert-ku", *(f"{bits:02x}" for bits in peer.key_usages))
        if peer.extended_usage:
            yield line_of("remote-cert-eku", peer.extended_usage)
        if peer.username_fields != PeerPolicy.username_fields:
            yield line_of("x509-username-field", *peer.username_fields)


def _addresses(config: ServerConfig) -> Iterator[str]:
    nothing_said = config.bridge is not None and config.network is not None and config.bridge.gateway is None
    if nothing_said or (config.own, config.own6) != (None, None):
        yield from ("mode server", "tls-server")
    yield from _addresses4(config)
    if config.own6 is not None and config.network6 is not None:
        length = config.network6.prefixlen
        yield line_of("ifconfig-ipv6", f"{config.own6}/{length}", config.own6 + 1)
        yield from (line_of("ifconfig-ipv6-pool", f"{first}/{length}") for first in config.pool6 or ())
    elif config.network6 is not None:
        yield line_of("server-ipv6", config.network6)


def _addresses4(config: ServerConfig) -> Iterator[str]:
    network, bridge, pool = config.network, config.bridge, config.pool or ()
    if network is None:
        if bridge is not None:
            yield line_of("server-bridge", None if bridge.dhcp_gateway else NOGW)
        return
    if bridge is not None and bridge.gateway is not None:
        yield line_of("server-bridge", bridge.gateway, network.netmask, *pool)
        return
    if config.own is not None:
        yield line_of("ifconfig", config.own, network.netmask)
    elif bridge is None:
        yield line_of("server", network.network_address, network.netmask, None if config.pool is None else "nopool")
    if pool:
        yield line_of("ifconfig-pool", *pool, network.netmask)


def _two_lines(credentials: Credentials) -> str:
    return f"{credentials.username}\n{credentials.password.reveal().decode('utf-8', 'surrogateescape')}"


def _remote(remote: Remote) -> str:
    end = "-client" if remote.proto is Proto.TCP else ""
    return line_of("remote", remote.host, remote.port, f"{remote.proto.value}{_FAMILIES[remote.family]}{end}")


def _local(local: Local) -> Iterator[str]:
    if local.address is not None:
        yield line_of("local", local.address)
    if local.port:
        yield line_of("lport", local.port)
    if local == Local():
        yield "nobind"


def _listen(listen: Listen, *, end: str = "") -> Iterator[str]:
    yield line_of("proto", f"{listen.proto.value}{_FAMILIES[listen.family]}{end}")
    yield line_of("port", listen.port)
    if listen.address:
        yield line_of("local", listen.address)


def _place(listen: Listen) -> str:
    return line_of("local", listen.address or "*", listen.port, f"{listen.proto.value}{_FAMILIES[listen.family]}")


def _frequency(name: str, rate: Frequency) -> str:
    return line_of(name, rate.most, f"{rate.seconds:g}")


def _device(common: Common) -> Iterator[str]:
    yield line_of("dev", common.dev)
    if not common.dev.startswith("tap" if common.ethernet else "tun"):
        yield f"dev-type {'tap' if common.ethernet else 'tun'}"


def _apart(what: str, line: str) -> ConfigError:
    return ConfigError(
        f"the password of {what} cannot be written into the same file: no directive holds it",
        fix=f"take the result of --render, and write '{line}' where it stands in that, with FILE beside it",
    )


def _http_proxy(proxy: HttpProxy) -> Iterator[str]:
    login = None
    if proxy.asks and proxy.eager:
        login = "stdin"
    elif proxy.asks or proxy.credentials is not None:
        login = "auto" if "basic" in proxy.methods else "auto-nct"
    yield line_of("http-proxy", proxy.host, proxy.port, login)
    if proxy.version != HttpProxy.version:
        yield line_of("http-proxy-option", "VERSION", proxy.version)
    for name, value in proxy.headers:
        yield line_of("http-proxy-option", "CUSTOM-HEADER", name, value)


def _versions(tls: TlsVersions) -> Iterator[str]:
    yield f"tls-version-min {tls.minimum[0]}.{tls.minimum[1]}"
    if tls.maximum is not None:
        yield f"tls-version-max {tls.maximum[0]}.{tls.maximum[1]}"


def _choices(choices: TlsChoices) -> Iterator[str]:
    for name, value in (
        ("tls-cipher", choices.ciphers),
        ("tls-ciphersuites", choices.suites),
        ("tls-groups", choices.groups),
    ):
        if value:
            yield line_of(name, value)
    if choices.security_level is not None:
        yield line_of("tls-cert-profile", _LEVELS[choices.security_level])


def _ciphers(common: Common) -> Iterator[str]:
    fallback = common.data_ciphers_fallback
    named: Iterable[str] = (*common.data_ciphers, *filter(None, (fallback, common.digest)))
    yield from _insecure(named)
    yield line_of("data-ciphers", ":".join(common.data_ciphers))
    if fallback is not None:
        yield line_of("data-ciphers-fallback", fallback)
    yield line_of("auth", common.digest or "none")


def _insecure(named: Iterable[str]) -> Iterator[str]:
    insecure = [name for name in named if name in INSECURE_DIGESTS or (name in SUITES and SUITES[name].insecure)]
    if insecure:
        yield line_of("allow-insecure-crypto", *dict.fromkeys(insecure))


def _timers(timers: Timers, usual: Timers) -> Iterator[str]:
    yield from _filled(timers)
    if timers.reneg_sec != usual.reneg_sec or timers.reneg_sec_least is not None:
        yield line_of("reneg-sec", timers.reneg_sec, timers.reneg_sec_least)
    if (timers.connect_retry, timers.connect_retry_max_pause) != (usual.connect_retry, usual.connect_retry_max_pause):
        yield line_of("connect-retry", timers.connect_retry, timers.connect_retry_max_pause)
    if timers.inactive:
        yield line_of("inactive", timers.inactive, timers.inactive_bytes or None)
    if timers.ping:
        yield line_of("ping", timers.ping)
    if timers.ping_exit:
        yield line_of("ping-exit", timers.ping_exit)
    elif timers.ping_restart != usual.ping_restart:
        yield line_of("ping-restart", timers.ping_restart)


def _compression(common: Common) -> Iterator[str]:
    if common.decompress:
        yield "allow-compression asym"
    if common.compression is not Compression.NONE:
        yield common.compression.value


def _inner(config: ClientConfig) -> Iterator[str]:
    """Routes and resolvers."""
    yield from (_route(route.network, route) for route in config.routes)
    yield from (_route(route.target, route) for route in config.landmark_routes)
    if config.redirect is not None:
        yield line_of("redirect-gateway", *sorted(config.redirect))
    if config.redirect_private is not None:
        yield line_of("redirect-private", *sorted(config.redirect_private))
    yield from _dns(config.dns)


def _dns(dns: Dns) -> Iterator[str]:
    """Both ways of saying it: only the newer one knows of ports, TLS and DNSSEC."""
    if (dns.port, dns.dnssec, dns.tls, dns.tls_name) == (Dns.port, "", False, ""):
        yield from (line_of("dhcp-option", "DNS", server) for server in dns.servers)
        yield from (line_of("dhcp-option", "DOMAIN-ROUTE", name) for name in dns.split)
    else:
        ends = (f"[{one}]:{dns.port}" if one.version == 6 else f"{one}:{dns.port}" for one in dns.servers)
        yield " ".join(("dns server 0 address", *ends))
        said = {"resolve-domains": dns.split, "dnssec": dns.dnssec, "sni": dns.tls_name, "transport": dns.tls and "DoT"}
        for what, value in said.items():
            if value:
                yield line_of("dns", "server", 0, what, *(value if isinstance(value, tuple) else (value,)))
    yield from (line_of("dhcp-option", "DOMAIN-SEARCH", name) for name in dns.search)


def _route(target: Target, route: Route | LandmarkRoute) -> str:
    gateway: object = route.gateway
    if isinstance(gateway, Landmark):
        gateway = gateway.value
    elif gateway is None and route.metric is not None:
        gateway = "default"
    if isinstance(target, Landmark):
        return line_of("route", target.value, "default", gateway, route.metric)
    if isinstance(target, IPv6Network):
        return line_of("route-ipv6", target, gateway, route.metric)
    return line_of("route", target.network_address, target.netmask, gateway, route.metric)
