# SPDX-License-Identifier: BSD-2-Clause
"""Rules between directives, in one table: what each line alone cannot tell.

Every rule has a test that breaks it. A rule looks at the settings and returns what is wrong, or None; it never
changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.model import Proto
from qubes_miragevpn.config.reading.collect import Entry, Findings, Place, Settings

PULLS = frozenset({Place.CLIENT})
SERVES = frozenset({Place.SERVER})
CLIENT = frozenset({Place.CLIENT, Place.CONNECTS})
SERVER = frozenset({Place.SERVER, Place.WAITS})
BOTH = CLIENT | SERVER
STATIC = frozenset({Place.STATIC})
EQUALS = frozenset({Place.CONNECTS, Place.WAITS})


@dataclass(frozen=True)
class Breach:
    """A broken rule: at which line (None: the file as a whole), what is wrong, what to do."""

    entry: Entry | None
    problem: str
    fix: str = ""


@dataclass(frozen=True)
class Rule:
    """`name` is what the tests call it; a rule that is not `fatal` gives a warning."""

    name: str
    places: frozenset[Place]
    check: Callable[[Settings], Breach | None]
    fatal: bool = True


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


def _together(first: str, second: str, problem: str, fix: str) -> Callable[[Settings], Breach | None]:
    """Both directives at once are wrong."""

    def check(settings: Settings) -> Breach | None:
        if settings.has(first) and settings.has(second):
            return Breach(settings.last(second), problem, fix)
        return None

    return check


def _needs(first: str, second: str) -> Callable[[Settings], Breach | None]:
    """`first` makes no sense without `second`."""

    def check(settings: Settings) -> Breach | None:
        if settings.has(first) and not settings.has(second):
            return Breach(settings.last(first), f"'{first}' needs '{second}'", f"add a '{second}' line or block")
        return None

    return check


def _wants(name: str, problem: str, fix: str) -> Callable[[Settings], Breach | None]:
    """The directive must be there."""
    return lambda settings: None if settings.has(name) else Breach(None, problem, fix)


def _client_role(settings: Settings) -> Breach | None:
    if settings.has("client") or (settings.has("tls-client") and settings.has("pull")):
        return None
    return Breach(None, "this is no client: 'client' is missing", "write 'client' (or 'tls-client' and 'pull')")


def _own_address(settings: Settings) -> Breach | None:
    if settings.has("ifconfig") or settings.has("ifconfig-ipv6"):
        return None
    fix = "write 'ifconfig 10.1.0.2 10.1.0.1'; or 'client' (or 'server NETWORK NETMASK') if one end gives the addresses"
    return Breach(None, "nobody tells us our address: 'ifconfig' is missing", fix)


_OF_WHO_CONNECTS = (
    "http-proxy", "socks-proxy", "connection", "auth-user-pass", "static-challenge", "inactive", "session-timeout",
)  # fmt: skip


def _connecting_while_waiting(settings: Settings) -> Breach | None:
    for name in _OF_WHO_CONNECTS:
        if settings.has(name):
            problem = f"'{name}' is not supported at the end that waits ('tls-server' without a mode)"
            return Breach(settings.last(name), problem, "write it at the end that connects")
    return None


def _redirect_without_remote(settings: Settings) -> Breach | None:
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


def _remote(settings: Settings) -> Breach | None:
    if settings.has("remote") or settings.has("connection"):
        return None
    return Breach(None, "there is no server to connect to: 'remote' is missing", "write 'remote HOST PORT'")


def _remote_beside_connection(settings: Settings) -> Breach | None:
    if settings.has("remote") and settings.has("connection"):
        entry = settings.last("remote")
        return Breach(entry, "'remote' has no effect beside <connection> blocks", "move it into a block of its own")
    return None


def _anchor(settings: Settings) -> Breach | None:
    if any(settings.has(name) for name in ("ca", "capath", "pkcs12", "peer-fingerprint")):
        return None
    return Breach(
        None,
        "nothing says which peer to trust: neither 'ca' nor 'peer-fingerprint' is there",
        "add the <ca> block, or 'peer-fingerprint' with the SHA-256 fingerprint of the peer's certificate",
    )


def _authentication(settings: Settings) -> Breach | None:
    if any(settings.has(name) for name in ("auth-user-pass", "cert", "key", "pkcs12")):
        return None
    return Breach(
        None,
        "there is nothing to log in with: neither 'cert' and 'key' nor 'auth-user-pass' is there",
        "add 'auth-user-pass', or the <cert> and <key> blocks",
    )


_TELLS_ROLES = (
    "remote-cert-tls", "ns-cert-type", "verify-x509-name", "tls-remote", "peer-fingerprint", "remote-cert-eku",
    "verify-hash",
)  # fmt: skip


def _server_role_of_peer(settings: Settings) -> Breach | None:
    for name in _TELLS_ROLES:
        if settings.has(name):
            return None
    return Breach(
        None,
        "any certificate of the CA passes for the server's, also another customer's",
        "add 'remote-cert-tls server', or 'verify-x509-name NAME name'",
    )


def _own_certificate(settings: Settings) -> Breach | None:
    if settings.has("cert") or settings.has("pkcs12"):
        return None
    return Breach(None, "a server needs a certificate: 'cert' is missing", "add 'cert' and 'key'")


def _two_identities(settings: Settings) -> Breach | None:
    for name in ("cert", "key"):
        if settings.has("pkcs12") and settings.has(name):
            problem = f"'{name}' and 'pkcs12', which holds certificate and key, exclude each other"
            return Breach(settings.last(name), problem, "keep one of them")
    return None


def _extra_without_own(settings: Settings) -> Breach | None:
    if settings.has("extra-certs") and not (settings.has("cert") or settings.has("pkcs12")):
        return Breach(settings.last("extra-certs"), "'extra-certs' needs 'cert'", "add 'cert' and 'key'")
    return None


def _hash_without_authority(settings: Settings) -> Breach | None:
    if settings.has("verify-hash") and not any(settings.has(name) for name in ("ca", "capath", "pkcs12")):
        return Breach(settings.last("verify-hash"), "'verify-hash' needs 'ca'", "add the <ca> block")
    return None


def _revocation_without_authority(settings: Settings) -> Breach | None:
    if settings.has("crl-verify") and not any(settings.has(name) for name in ("ca", "capath", "pkcs12")):
        problem = "'crl-verify' needs 'ca': pinned certificates are not looked up in a list"
        return Breach(settings.last("crl-verify"), problem, "remove the pin of a certificate that is revoked")
    return None


def _role_directions(settings: Settings) -> Breach | None:
    entry, direction = settings.last("tls-auth"), settings.last("key-direction")
    if entry is None or direction is None or entry.args[1] in (None, direction.args[0]):
        return None
    return Breach(
        direction, f"'key-direction' contradicts the direction of 'tls-auth' in line {entry.line}", "keep one"
    )


def _direction_without_key(settings: Settings) -> Breach | None:
    if settings.has("key-direction") and not settings.has("tls-auth"):
        return Breach(settings.last("key-direction"), "'key-direction' has no effect without 'tls-auth'")
    return None


def _auth_none(settings: Settings) -> Breach | None:
    if settings.has("tls-auth") and str(settings.value("auth", "")).lower() == "none":
        return Breach(
            settings.last("auth"),
            "'tls-auth' needs a digest, not 'auth none'",
            "write 'auth SHA256', as the server has it",
        )
    return None


def _keepalive_and_ping(settings: Settings) -> Breach | None:
    if settings.has("keepalive"):
        for name in ("ping", "ping-restart", "ping-exit"):
            if settings.has(name):
                return Breach(
                    settings.last(name), f"'{name}' contradicts 'keepalive', which sets it", "keep one of them"
                )
    return None


def _keepalive_ratio(settings: Settings) -> Breach | None:
    entry = settings.last("keepalive")
    if entry is not None and entry.args[1] < 2 * entry.args[0]:
        return Breach(
            entry, "the timeout of 'keepalive' must be at least twice its interval", "write 'keepalive 10 60'"
        )
    return None


def _two_cert_types(settings: Settings) -> Breach | None:
    new, old = settings.last("remote-cert-tls"), settings.last("ns-cert-type")
    if new is not None and old is not None and new.args[0] != old.args[0]:
        return Breach(old, "'ns-cert-type' contradicts 'remote-cert-tls'", "remove 'ns-cert-type'")
    return None


def _old_cert_type(settings: Settings) -> Breach | None:
    entry = settings.last("ns-cert-type")
    if entry is not None and not settings.has("remote-cert-tls"):
        role = entry.args[0]
        return Breach(entry, f"'ns-cert-type {role}' is taken as 'remote-cert-tls {role}'", "write it that way")
    return None


def _old_name(settings: Settings) -> Breach | None:
    entry = settings.last("tls-remote")
    if entry is None:
        return None
    if settings.has("verify-x509-name"):
        return Breach(entry, "'tls-remote' and 'verify-x509-name' exclude each other", "remove 'tls-remote'")
    if "=" in entry.args[0] or entry.args[0].startswith("/"):
        return Breach(entry, "'tls-remote' with a whole subject is not understood", "write 'verify-x509-name'")
    return None


def _old_name_taken(settings: Settings) -> Breach | None:
    entry = settings.last("tls-remote")
    if entry is None:
        return None
    taken = "'tls-remote NAME' is taken as 'verify-x509-name NAME name-prefix'"
    return Breach(entry, taken, "write it that way, or better with 'name'")


def _no_tap(settings: Settings) -> Breach | None:
    entry = settings.last("dev")
    if entry is not None and entry.args[0].startswith("tap"):
        return Breach(entry, "TAP (Ethernet) tunnels are not supported by a server of many clients", "write 'dev tun'")
    return None


def _device(settings: Settings) -> Breach | None:
    entry = settings.last("dev")
    name = "" if entry is None else entry.args[0]
    kind = settings.value("dev-type")
    if entry is None or name.startswith(("tun", "tap")):
        if entry is not None and kind not in (None, name[:3]):
            return Breach(entry, f"'dev {name}' contradicts 'dev-type {kind}'", "remove 'dev-type'")
        return None
    if name == "null":
        return Breach(entry, "'dev null' makes no tunnel, which is not supported", "write 'dev tun'")
    if not settings.has("dev-type"):
        return Breach(entry, f"the kind of the interface '{name}' is not clear", "add 'dev-type tun'")
    return None


def _tcp_exit_notify(settings: Settings) -> Breach | None:
    entry, proto = settings.last("explicit-exit-notify"), settings.value("proto")
    if entry is not None and proto is not None and proto.proto is Proto.TCP:
        return Breach(entry, "'explicit-exit-notify' has no effect over TCP, whose end the peer sees")
    return None


def _proto_end(end: str) -> Callable[[Settings], Breach | None]:
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


def _certificates_beside_static_key(settings: Settings) -> Breach | None:
    for name in _OF_CERTIFICATES:
        if settings.has(name):
            problem = f"'{name}' means nothing in the static key mode, which 'secret' asks for"
            return Breach(settings.last(name), problem, "remove 'secret', or this line")
    return None


RULES: tuple[Rule, ...] = (
    Rule("role", PULLS, _client_role),
    Rule("address between two", EQUALS, _own_address),
    Rule("connecting while waiting", frozenset({Place.WAITS}), _connecting_while_waiting),
    Rule("everything without a remote", frozenset({Place.WAITS}), _redirect_without_remote),
    Rule(
        "two roles",
        EQUALS,
        _together("tls-client", "tls-server", "'tls-client' and 'tls-server' exclude each other", "keep one of them"),
    ),
    Rule("remote", CLIENT, _remote),
    Rule("certificates beside a static key", STATIC, _certificates_beside_static_key),
    Rule(
        "consent to a static key",
        STATIC,
        _wants(
            "allow-deprecated-insecure-static-crypto",
            "a static key has no forward secrecy: whoever ever learns it can read all that was recorded",
            "use certificates, or write 'allow-deprecated-insecure-static-crypto' to use it all the same",
        ),
    ),
    Rule(
        "address with a static key",
        STATIC,
        _wants("ifconfig", "nobody tells us our address: 'ifconfig' is missing", "write 'ifconfig 10.1.0.2 10.1.0.1'"),
    ),
    Rule(
        "cipher with a static key",
        STATIC,
        _wants("cipher", "nothing is negotiated: 'cipher' is missing", "write 'cipher AES-256-CBC', at both ends"),
    ),
    Rule("remote beside connection", CLIENT, _remote_beside_connection, fatal=False),
    Rule("trust", BOTH, _anchor),
    Rule("login", CLIENT, _authentication),
    Rule("certificate without key", BOTH, _needs("cert", "key")),
    Rule("key without certificate", BOTH, _needs("key", "cert")),
    Rule(
        "two wraps",
        BOTH,
        _together(
            "tls-auth",
            "tls-crypt",
            "'tls-auth' and 'tls-crypt' exclude each other",
            "keep the one that the other end uses",
        ),
    ),
    Rule(
        "client key and static key",
        CLIENT,
        _together(
            "tls-crypt",
            "tls-crypt-v2",
            "'tls-crypt' and 'tls-crypt-v2' exclude each other",
            "keep the one that the server uses",
        ),
    ),
    Rule(
        "client key and tls-auth",
        CLIENT,
        _together(
            "tls-auth",
            "tls-crypt-v2",
            "'tls-auth' and 'tls-crypt-v2' exclude each other",
            "keep the one that the server uses",
        ),
    ),
    Rule("question without password", CLIENT, _needs("static-challenge", "auth-user-pass")),
    Rule("holding without a socket", SERVER, _needs("management-hold", "management")),
    Rule("remembering without a socket", SERVER, _needs("management-log-cache", "management")),
    Rule("age of client keys", SERVER, _needs("tls-crypt-v2-max-age", "tls-crypt-v2")),
    Rule("two identities", BOTH, _two_identities),
    Rule("extra certificates alone", BOTH, _extra_without_own),
    Rule(
        "two kinds of hashes",
        BOTH,
        _together(
            "verify-hash",
            "peer-fingerprint",
            "'verify-hash' and 'peer-fingerprint' exclude each other",
            "keep 'peer-fingerprint'",
        ),
    ),
    Rule("hash without authority", BOTH, _hash_without_authority),
    Rule("revocation without authority", BOTH, _revocation_without_authority),
    Rule("digest for tls-auth", BOTH, _auth_none),
    Rule("directions", BOTH, _role_directions),
    Rule("direction without key", BOTH, _direction_without_key, fatal=False),
    Rule("keepalive and ping", BOTH | STATIC, _keepalive_and_ping),
    Rule("keepalive ratio", BOTH | STATIC, _keepalive_ratio),
    Rule("two certificate types", BOTH, _two_cert_types),
    Rule("old certificate type", BOTH, _old_cert_type, fatal=False),
    Rule("old name", BOTH, _old_name),
    Rule("old name taken", BOTH, _old_name_taken, fatal=False),
    Rule("server's certificate", CLIENT, _server_role_of_peer, fatal=False),
    Rule("Ethernet for many", SERVES, _no_tap),
    Rule("device", BOTH | STATIC, _device),
    Rule(
        "lport and nobind",
        CLIENT,
        _together("lport", "nobind", "'lport' and 'nobind' exclude each other", "keep one of them"),
    ),
    Rule("exit notify over TCP", BOTH, _tcp_exit_notify, fatal=False),
    Rule("client's protocol", CLIENT, _proto_end("server")),
    Rule("server's protocol", SERVER, _proto_end("client")),
    Rule(
        "network",
        SERVES,
        _wants(
            "server", "there are no addresses to give: 'server' is missing", "write 'server 10.8.0.0 255.255.255.0'"
        ),
    ),
    Rule(
        "server's own certificate",
        SERVER,
        _own_certificate,
    ),
    Rule(
        "keepalive",
        SERVES,
        _wants("keepalive", "without 'keepalive' a vanished client is noticed late", "write 'keepalive 10 60'"),
        fatal=False,
    ),
)
