# SPDX-License-Identifier: BSD-2-Clause
"""Rules between directives, in one table: what each line alone cannot tell.

Every rule has a test that breaks it. A rule looks at the settings and returns what is wrong, or None; it never
changes anything.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.building.rules.identity import (
    anchor,
    authentication,
    extra_without_own,
    hash_without_authority,
    old_cert_type,
    old_name,
    old_name_taken,
    own_certificate,
    revocation_without_authority,
    server_role_of_peer,
    two_cert_types,
    two_identities,
)
from qubes_miragevpn.config.building.rules.keys import (
    auth_none,
    direction_without_key,
    open_control_channel,
    role_directions,
)
from qubes_miragevpn.config.building.rules.roles import (
    addresses,
    certificates_beside_static_key,
    client_role,
    connecting_while_waiting,
    own_address,
    proto_end,
    redirect_without_remote,
    remote,
    remote_beside_connection,
)
from qubes_miragevpn.config.building.rules.rule import (
    BOTH,
    CLIENT,
    EQUALS,
    PULLS,
    SERVER,
    SERVES,
    STATIC,
    Rule,
    needs,
    together,
    wants,
)
from qubes_miragevpn.config.building.rules.tunnel import (
    bridge,
    device,
    keepalive_and_ping,
    keepalive_ratio,
    tcp_exit_notify,
)
from qubes_miragevpn.config.reading.collect import Findings, Place, Settings

RULES: tuple[Rule, ...] = (
    Rule("role", PULLS, client_role),
    Rule("address between two", EQUALS, own_address),
    Rule("connecting while waiting", frozenset({Place.WAITS}), connecting_while_waiting),
    Rule("everything without a remote", frozenset({Place.WAITS}), redirect_without_remote),
    Rule(
        "two roles",
        EQUALS,
        together("tls-client", "tls-server", "'tls-client' and 'tls-server' exclude each other", "keep one of them"),
    ),
    Rule("remote", CLIENT, remote),
    Rule("certificates beside a static key", STATIC, certificates_beside_static_key),
    Rule(
        "consent to a static key",
        STATIC,
        wants(
            "allow-deprecated-insecure-static-crypto",
            "a static key has no forward secrecy: whoever ever learns it can read all that was recorded",
            "use certificates, or write 'allow-deprecated-insecure-static-crypto' to use it all the same",
        ),
    ),
    Rule(
        "address with a static key",
        STATIC,
        wants("ifconfig", "nobody tells us our address: 'ifconfig' is missing", "write 'ifconfig 10.1.0.2 10.1.0.1'"),
    ),
    Rule(
        "cipher with a static key",
        STATIC,
        wants("cipher", "nothing is negotiated: 'cipher' is missing", "write 'cipher AES-256-CBC', at both ends"),
    ),
    Rule("remote beside connection", CLIENT, remote_beside_connection, fatal=False),
    Rule("trust", BOTH, anchor),
    Rule("login", CLIENT, authentication),
    Rule("certificate without key", BOTH, needs("cert", "key")),
    Rule("key without certificate", BOTH, needs("key", "cert")),
    Rule(
        "two wraps",
        BOTH,
        together(
            "tls-auth",
            "tls-crypt",
            "'tls-auth' and 'tls-crypt' exclude each other",
            "keep the one that the other end uses",
        ),
    ),
    Rule(
        "client key and static key",
        CLIENT,
        together(
            "tls-crypt",
            "tls-crypt-v2",
            "'tls-crypt' and 'tls-crypt-v2' exclude each other",
            "keep the one that the server uses",
        ),
    ),
    Rule(
        "client key and tls-auth",
        CLIENT,
        together(
            "tls-auth",
            "tls-crypt-v2",
            "'tls-auth' and 'tls-crypt-v2' exclude each other",
            "keep the one that the server uses",
        ),
    ),
    Rule("question without password", CLIENT, needs("static-challenge", "auth-user-pass")),
    Rule("holding without a socket", SERVER, needs("management-hold", "management")),
    Rule("remembering without a socket", SERVER, needs("management-log-cache", "management")),
    Rule("age of client keys", SERVER, needs("tls-crypt-v2-max-age", "tls-crypt-v2")),
    Rule("judge of client keys", SERVER, needs("tls-crypt-v2-verify", "tls-crypt-v2")),
    Rule("two identities", BOTH, two_identities),
    Rule("extra certificates alone", BOTH, extra_without_own),
    Rule(
        "two kinds of hashes",
        BOTH,
        together(
            "verify-hash",
            "peer-fingerprint",
            "'verify-hash' and 'peer-fingerprint' exclude each other",
            "keep 'peer-fingerprint'",
        ),
    ),
    Rule("hash without authority", BOTH, hash_without_authority),
    Rule("revocation without authority", BOTH, revocation_without_authority),
    Rule("digest for tls-auth", BOTH, auth_none),
    Rule("directions", BOTH, role_directions),
    Rule("direction without key", BOTH, direction_without_key, fatal=False),
    Rule("keepalive and ping", BOTH | STATIC, keepalive_and_ping),
    Rule("keepalive ratio", BOTH | STATIC, keepalive_ratio),
    Rule("two certificate types", BOTH, two_cert_types),
    Rule("old certificate type", BOTH, old_cert_type, fatal=False),
    Rule("old name", BOTH, old_name),
    Rule("old name taken", BOTH, old_name_taken, fatal=False),
    Rule("server's certificate", CLIENT, server_role_of_peer, fatal=False),
    Rule("bridge", SERVES, bridge),
    Rule("device", BOTH | STATIC, device),
    Rule(
        "lport and nobind",
        CLIENT,
        together("lport", "nobind", "'lport' and 'nobind' exclude each other", "keep one of them"),
    ),
    Rule("exit notify over TCP", BOTH, tcp_exit_notify, fatal=False),
    Rule("client's protocol", CLIENT, proto_end("server")),
    Rule("server's protocol", SERVER, proto_end("client")),
    Rule("open control channel", SERVES, open_control_channel),
    Rule(
        "network",
        SERVES,
        addresses,
    ),
    Rule(
        "server's own certificate",
        SERVER,
        own_certificate,
    ),
    Rule(
        "keepalive",
        SERVES,
        wants("keepalive", "without 'keepalive' a vanished client is noticed late", "write 'keepalive 10 60'"),
        fatal=False,
    ),
)


def examine(settings: Settings, place: Place, file: str, findings: Findings) -> None:
    """Apply every rule of `place`."""
    for rule in RULES:
        breach = rule.check(settings) if place in rule.places else None
        if breach is None:
            continue
        line = breach.entry.line if breach.entry else 0
        error = ConfigError(breach.problem, file=file, line=line, fix=breach.fix)
        if rule.fatal:
            findings.errors.append(error)
        else:
            findings.warn(str(error))
