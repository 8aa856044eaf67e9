# SPDX-License-Identifier: BSD-2-Clause
"""Keys, certificates and passwords as the blocks that hold them, and the lines about whose certificate is good."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import (
    ClientConfig,
    Common,
    Credentials,
    Identity,
    PeerPolicy,
    TlsAuth,
    TlsCrypt,
    TlsCryptV2Client,
    TlsCryptV2Server,
)
from qubes_miragevpn.config.quoting import line_of
from qubes_miragevpn.crypto.keyfiles import ClientKey, render_client_key, render_server_key, render_static_key

HIDDEN = "# (secret)"


class Blocks:
    """Makes the blocks of one file; knows whether secrets may be in them."""

    def __init__(self, *, show_secrets: bool) -> None:
        self.shows = show_secrets

    def block(self, name: str, content: str, *, secret: bool = False) -> str:
        """<name>, `content`, </name>."""
        if secret and not self.shows:
            content = HIDDEN
        return f"<{name}>\n{content.rstrip()}\n</{name}>"

    def key(self, name: str, key: Secret) -> str:
        """A static key."""
        return self.block(name, render_static_key(key.reveal()), secret=True)

    def wrapped(self, common: Common) -> Iterator[str]:
        """How the control channel is protected."""
        match common.wrap:
            case TlsAuth(key, direction):
                yield self.key("tls-auth", key)
                if direction is not None:
                    yield line_of("key-direction", direction)
            case TlsCrypt(key):
                yield self.key("tls-crypt", key)
            case TlsCryptV2Client(key, wrapped):
                yield self.block("tls-crypt-v2", render_client_key(ClientKey(key, wrapped)), secret=True)
            case TlsCryptV2Server(key, beside, force_cookie, age, verify):
                if force_cookie:
                    yield "tls-crypt-v2 [inline] force-cookie"
                yield self.block("tls-crypt-v2", render_server_key(key), secret=True)
                if age:
                    yield line_of("tls-crypt-v2-max-age", age)
                if verify:
                    yield line_of("tls-crypt-v2-verify", shlex.join(verify))
                if beside is not None:
                    yield from self.wrapped(dataclasses.replace(common, wrap=beside))

    def identity(self, identity: Identity | None) -> Iterator[str]:
        """Who we are."""
        if identity is not None:
            yield self.block("cert", identity.chain_pem.decode("ascii", "replace"))
            yield self.block("key", identity.key_pem.reveal().decode("ascii", "replace"), secret=True)

    def peer(self, peer: PeerPolicy) -> Iterator[str]:
        """Whom to trust."""
        if peer.revoked_serials is not None:
            raise ConfigError(
                "a directory of revoked serial numbers cannot be written into one file",
                fix="make a list of them and give it as <crl-verify>",
            )
        if peer.ca_pem:
            yield self.block("ca", peer.ca_pem.decode("ascii", "replace"))
        if peer.crl_pem:
            yield self.block("crl-verify", peer.crl_pem.decode("ascii", "replace"))
        if peer.fingerprints:
            yield self.block("peer-fingerprint", "\n".join(sorted(one.hex(":") for one in peer.fingerprints)))
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

    def login(self, config: ClientConfig) -> str:
        """What to log in with."""
        if config.credentials is not None:
            return self.block("auth-user-pass", two_lines(config.credentials), secret=True)
        return "auth-user-pass" if config.username is None else self.block("auth-user-pass", config.username)


def two_lines(credentials: Credentials) -> str:
    """User name and password as their files have them."""
    return f"{credentials.username}\n{credentials.password.reveal().decode('utf-8', 'surrogateescape')}"
