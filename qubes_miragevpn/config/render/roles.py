# SPDX-License-Identifier: BSD-2-Clause
"""The lines of each role, in the order in which people write them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from qubes_miragevpn.config.model import (
    ClientConfig,
    Command,
    Common,
    Frequency,
    LoginRules,
    NoWrap,
    Operating,
    Pam,
    PasswordFile,
    PeerPolicy,
    PointClient,
    PointServer,
    Proto,
    ServerConfig,
    StaticConfig,
    Timers,
)
from qubes_miragevpn.config.quoting import line_of
from qubes_miragevpn.config.render.blocks import Blocks
from qubes_miragevpn.config.render.inner import inner, route
from qubes_miragevpn.config.render.remotes import listening, place, remotes
from qubes_miragevpn.config.render.session import (
    choices,
    ciphers,
    compression,
    device,
    filled,
    insecure,
    session,
    timers,
    versions,
)
from qubes_miragevpn.config.rows.serving import NOGW
from qubes_miragevpn.crypto.keyfiles import render_token_secret

Model = ClientConfig | ServerConfig | StaticConfig | PointClient | PointServer


def render(config: Model, *, show_secrets: bool = False) -> str:
    """The text of `config`; keys and passwords are replaced by a comment unless they are to be shown."""
    writer = _Writer(Blocks(show_secrets=show_secrets))
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


class _Writer:
    """Makes the lines of each role."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks

    def client(self, config: ClientConfig) -> Iterator[str]:
        """A client profile."""
        yield "client"
        yield from remotes(self._blocks, config.remotes, config.common)
        yield from self._common(config.common, Timers())
        yield from self._own(config)

    def point_client(self, config: PointClient) -> Iterator[str]:
        """The end of a TLS tunnel between two that connects."""
        yield "tls-client"
        yield from remotes(self._blocks, config.client.remotes, config.client.common, bound=True)
        yield from config.tunnel
        yield from self._common(config.client.common, Timers(ping_restart=0.0))
        yield from self._own(config.client)

    def point_server(self, config: PointServer) -> Iterator[str]:
        """The end that waits."""
        yield "tls-server"
        yield from listening(config.listen)
        yield from (line_of("remote", address) for address in config.only)
        yield from config.tunnel
        yield from self._common(config.common, Timers(ping_restart=0.0))
        yield from self._own(config.client)

    def _own(self, config: ClientConfig) -> Iterator[str]:
        """What only those who are no servers have."""
        yield from filled(config)
        if config.replay_persist:
            yield line_of("replay-persist", config.replay_persist)
        if config.auth_user_pass:
            yield self._blocks.login(config)
        if config.static_challenge is not None:
            asked = config.static_challenge
            yield line_of("static-challenge", asked.text, int(asked.echo), "concat" if asked.concat else None)
        yield from inner(config)
        yield from (line_of("setenv", name, value) for name, value in config.peer_info)
        yield from (line_of("pull-filter", rule.action, rule.text) for rule in config.pull_filters)

    def static(self, config: StaticConfig) -> Iterator[str]:
        """A file of the static key mode."""
        client = config.client
        yield "allow-deprecated-insecure-static-crypto"
        yield self._blocks.key("secret", config.key)
        if config.direction is not None:
            yield line_of("key-direction", config.direction)
        yield line_of("cipher", config.cipher)
        yield from insecure((client.common.digest,))
        yield line_of("auth", client.common.digest)
        if (listen := config.listen) is not None:
            yield from listening(listen, end="-server" if listen.proto is Proto.TCP else "")
            yield from (line_of("remote", address) for address in config.only)
        else:
            yield from remotes(self._blocks, client.remotes, client.common, bound=True)
        yield from device(client.common)
        yield from config.tunnel
        yield from session(client.common)
        yield from timers(client.common.timers, Timers(ping_restart=0.0))
        yield from compression(client.common)
        if client.replay_persist:
            yield line_of("replay-persist", client.replay_persist)
        yield from filled(client)
        yield from inner(client)

    def server(self, config: ServerConfig) -> Iterator[str]:
        """A server's configuration."""
        if isinstance(config.common.wrap, NoWrap):
            yield "setenv opt allow-plain-tls"
        yield from _addresses(config)
        if config.nat is not None:
            yield line_of("nat", config.nat or None)
        if config.persist is not None:
            yield line_of("ifconfig-pool-persist", config.persist.path, int(config.persist.period))
        yield from map(place, config.places) if config.beside else listening(config.listen)
        yield from self._common(config.common, Timers(ping_restart=0.0))
        yield from filled(config)
        if config.first_packets != ServerConfig.first_packets:
            yield _frequency("connect-freq-initial", config.first_packets)
        if config.new_clients is not None:
            yield _frequency("connect-freq", config.new_clients)
        yield from _operating(config.operating)
        if config.client_dir is not None:
            yield line_of("client-config-dir", config.client_dir.path)
            if config.client_dir.exclusive:
                yield "ccd-exclusive"
        yield from (route(each.network, each) for each in config.routes)
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
        yield from filled(rules)
        if rules.tokens is not None:
            yield line_of("auth-gen-token", int(rules.tokens.lifetime), int(rules.tokens.renewal))
            if rules.tokens.secret is not None:
                text = render_token_secret(rules.tokens.secret)
                yield self._blocks.block("auth-gen-token-secret", text, secret=True)

    def _common(self, common: Common, usual: Timers) -> Iterator[str]:
        yield from device(common)
        yield from self._blocks.wrapped(common)
        yield from self._blocks.identity(common.identity)
        yield from self._blocks.peer(common.peer)
        yield from versions(common.tls)
        yield from choices(common.choices)
        yield from ciphers(common)
        yield from session(common)
        yield from timers(common.timers, usual)
        yield from compression(common)


def _operating(operating: Operating) -> Iterator[str]:
    for name, file in (("status", operating.status), ("metrics", operating.metrics)):
        if file is not None:
            yield line_of(name, file.path, int(file.period))
    if operating.management is not None:
        yield line_of("management", operating.management, "unix")
    yield from filled(operating)


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


def _frequency(name: str, rate: Frequency) -> str:
    return line_of(name, rate.most, f"{rate.seconds:g}")
