# SPDX-License-Identifier: BSD-2-Clause
"""Rows: keys, certificates, ciphers, authentication."""

from __future__ import annotations

from qubes_miragevpn.config.model import ClientConfig
from qubes_miragevpn.config.rows.arguments import (
    CIPHER_LIST,
    FINGERPRINT,
    NAME_TYPE,
    PATH,
    TEXT,
    TLS_VERSION,
    Arg,
    choice,
    integer,
)
from qubes_miragevpn.config.rows.row import APPLIED, ByFirstWord, NoEffect, Refused, Repeat, Row
from qubes_miragevpn.crypto.digests import INSECURE_DIGESTS
from qubes_miragevpn.crypto.suites import SUITES

INSECURE = choice(*(suite.name for suite in SUITES.values() if suite.insecure), *INSECURE_DIGESTS)
_FILE = Arg("file", PATH)
_DIRECTION = Arg("direction", integer(0, 1), optional=True)
_METHOD_2 = ByFirstWord(
    {"2": NoEffect("it is the only method there is", warn=False)},
    Refused("is only supported as method 2", "remove the line"),
)
_WIDER = NoEffect("the TLS library's own security level stays")
_TLS_CIPHERS = ByFirstWord(
    {"DEFAULT": _WIDER, "DEFAULT:@SECLEVEL=0": _WIDER, "DEFAULT:@SECLEVEL=1": _WIDER},
    Refused("is not supported yet", "remove the line: TLS 1.2 or newer with the library's secure ciphers is used"),
)

ROWS = (
    Row("ca", "certificates that the peer's must descend from", (_FILE,), client=APPLIED, server=APPLIED, block=True),
    Row(
        "cert", "our certificate, and those between it and the CA", (_FILE,), client=APPLIED, server=APPLIED, block=True
    ),
    Row("key", "our private key, not encrypted", (_FILE,), client=APPLIED, server=APPLIED, block=True),
    Row(
        "tls-auth",
        "authenticate control packets with a static key",
        (_FILE, _DIRECTION),
        client=APPLIED,
        server=APPLIED,
        block=True,
    ),
    Row("key-direction", "direction of `tls-auth`", (Arg("direction", integer(0, 1)),), client=APPLIED, server=APPLIED),
    Row(
        "tls-crypt",
        "encrypt and authenticate control packets with a static key",
        (_FILE,),
        client=APPLIED,
        server=APPLIED,
        block=True,
    ),
    Row(
        "tls-crypt-v2",
        "the same with a key of each client's own; a server names the key that opens those",
        (_FILE, Arg("cookie", choice("force-cookie", "allow-noncookie"), optional=True)),
        client=APPLIED,
        server=APPLIED,
        block=True,
    ),
    Row(
        "tls-crypt-v2-max-age",
        "refuse client keys that were issued more days ago",
        (Arg("days", integer(1, 36500)),),
        server=APPLIED,
    ),
    Row(
        "remote-cert-tls",
        "the peer's certificate must be one for this role",
        (Arg("role", choice("server", "client")),),
        client=APPLIED,
        server=APPLIED,
    ),
    Row(
        "ns-cert-type",
        "old form of `remote-cert-tls`, taken as that",
        (Arg("role", choice("server", "client")),),
        client=APPLIED,
        server=APPLIED,
    ),
    Row(
        "verify-x509-name",
        "the name that the peer's certificate must bear",
        (Arg("name", TEXT), Arg("type", NAME_TYPE, optional=True)),
        client=APPLIED,
        server=APPLIED,
    ),
    Row(
        "peer-fingerprint",
        "SHA-256 fingerprints of acceptable certificates",
        (Arg("fingerprint", FINGERPRINT),),
        client=APPLIED,
        server=APPLIED,
        block=True,
        repeat=Repeat.ADD,
    ),
    Row(
        "tls-version-min",
        "oldest TLS version",
        (Arg("version", TLS_VERSION), Arg("or-highest", choice("or-highest"), optional=True)),
        client=APPLIED,
        server=APPLIED,
    ),
    Row("tls-version-max", "newest TLS version", (Arg("version", TLS_VERSION),), client=APPLIED, server=APPLIED),
    Row(
        "cipher",
        "one data cipher; without `data-ciphers` it joins the defaults, and is the fallback",
        (Arg("cipher", TEXT),),
        client=APPLIED,
        server=APPLIED,
        pushed=APPLIED,
    ),
    Row(
        "data-ciphers",
        "data ciphers to negotiate, best first",
        (Arg("list", TEXT),),
        client=APPLIED,
        server=APPLIED,
        aliases=("ncp-ciphers",),
    ),
    Row(
        "data-ciphers-fallback",
        "cipher for a peer that negotiates none",
        (Arg("cipher", TEXT),),
        client=APPLIED,
        server=APPLIED,
    ),
    Row(
        "auth",
        "digest of `tls-auth`, and of the HMAC beside a data cipher that is not AEAD",
        (Arg("digest", TEXT),),
        client=APPLIED,
        server=APPLIED,
    ),
    Row(
        "allow-insecure-crypto",
        "use these broken algorithms for the data channel where they are asked for; each is warned of (our own option)",
        (Arg("name", INSECURE),),
        Arg("name", INSECURE),
        client=APPLIED,
        server=APPLIED,
    ),
    Row(
        "auth-user-pass",
        "log in with name and password, asked for or from a file",
        (Arg("file", PATH, optional=True),),
        client=APPLIED,
        block=True,
        secret=True,
    ),
    Row(
        "auth-nocache",
        "forget the password once used",
        client=APPLIED,
        server=NoEffect("a server holds no password", warn=False),
        fills=(ClientConfig, "auth_nocache"),
    ),
    Row(
        "auth-retry",
        "what to do when the password is refused",
        (Arg("how", choice("none", "nointeract", "interact")),),
        client=APPLIED,
        fills=(ClientConfig, "auth_retry"),
    ),
    Row(
        "tls-cipher",
        "",
        (Arg("list", CIPHER_LIST),),
        client=_TLS_CIPHERS,
        server=_TLS_CIPHERS,
    ),
    Row(
        "key-method",
        "",
        (Arg("method", integer(1, 2)),),
        client=_METHOD_2,
        server=_METHOD_2,
    ),
    Row("dh", "", None, server=NoEffect("keys are always agreed by elliptic-curve Diffie-Hellman", warn=False)),
    Row(
        "verify-client-cert",
        "whether clients need a certificate",
        (Arg("how", choice("require", "none", "optional"), optional=True),),
        server=ByFirstWord(
            {word: NoEffect("a certificate is always required", warn=False) for word in ("", "require")},
            Refused("is only supported as 'require'", "remove the line and give every client a certificate"),
        ),
    ),
)
