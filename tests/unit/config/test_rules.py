# SPDX-License-Identifier: BSD-2-Clause
"""Every rule between directives, broken once."""

from __future__ import annotations

import pytest

from qubes_miragevpn.config.building.rules import RULES
from qubes_miragevpn.config.reading.collect import Place
from tests.unit.config.texts import (
    CLIENT,
    CONNECTS,
    SERVER,
    STATIC,
    WAITS,
    client,
    client_errors,
    connects_errors,
    server,
    server_errors,
    static_errors,
    waits_errors,
    without,
)

# name of the rule, place, the text that breaks it, what is said
BROKEN = [
    ("certificates beside a static key", Place.STATIC, STATIC + "ca ca.crt\n", "'ca' means nothing in the static"),
    ("consent to a static key", Place.STATIC, without("allow-deprecated-insecure-static-crypto", STATIC), "secrecy"),
    ("bridge", Place.SERVER, SERVER + "server-bridge\n", "needs a tunnel of Ethernet frames"),
    ("address between two", Place.WAITS, without("ifconfig", WAITS), "'ifconfig' is missing"),
    ("address between two", Place.CONNECTS, without("ifconfig", CONNECTS), "'ifconfig' is missing"),
    ("two roles", Place.CONNECTS, CONNECTS + "tls-server\n", "exclude each other"),
    ("connecting while waiting", Place.WAITS, WAITS + "inactive 600\n", "'inactive' is not supported at the end"),
    ("everything without a remote", Place.WAITS, WAITS + "redirect-gateway def1\n", "into it"),
    ("address with a static key", Place.STATIC, without("ifconfig", STATIC), "'ifconfig' is missing"),
    ("cipher with a static key", Place.STATIC, without("cipher", STATIC), "'cipher' is missing"),
    ("role", Place.CLIENT, without("client"), "c.ovpn: this is no client: 'client' is missing"),
    ("role", Place.CLIENT, "tls-client\n" + without("client"), "'client' is missing"),
    ("remote", Place.CLIENT, without("remote"), "'remote' is missing"),
    ("trust", Place.CLIENT, without("ca"), "neither 'ca' nor 'peer-fingerprint' is there"),
    ("trust", Place.SERVER, without("ca", SERVER), "neither 'ca' nor 'peer-fingerprint' is there"),
    ("login", Place.CLIENT, without("auth-user-pass"), "there is nothing to log in with"),
    ("certificate without key", Place.CLIENT, CLIENT + "cert own.crt\n", "c.ovpn:6: 'cert' needs 'key'"),
    ("key without certificate", Place.CLIENT, CLIENT + "key own.key\n", "c.ovpn:6: 'key' needs 'cert'"),
    ("two wraps", Place.CLIENT, CLIENT + "tls-auth ta.key\ntls-crypt ta.key\n", "'tls-auth' and 'tls-crypt' exclude"),
    ("two wraps", Place.SERVER, SERVER + "tls-crypt ta.key\ntls-auth ta.key\n", "'tls-auth' and 'tls-crypt' exclude"),
    ("client key and static key", Place.CLIENT, CLIENT + "tls-crypt ta.key\ntls-crypt-v2 v2-client.key\n", "exclude"),
    ("client key and tls-auth", Place.CLIENT, CLIENT + "tls-auth ta.key\ntls-crypt-v2 v2-client.key\n", "exclude"),
    ("question without password", Place.CLIENT, without("auth-user-pass") + "static-challenge Code 0\n", "needs"),
    ("judge of client keys", Place.SERVER, SERVER + "tls-crypt-v2-verify /bin/true\n", "needs 'tls-crypt-v2'"),
    ("age of client keys", Place.SERVER, SERVER + "tls-crypt-v2-max-age 9\n", "needs 'tls-crypt-v2'"),
    ("holding without a socket", Place.SERVER, SERVER + "management-hold\n", "needs 'management'"),
    ("remembering without a socket", Place.SERVER, SERVER + "management-log-cache 9\n", "needs 'management'"),
    (
        "digest for tls-auth",
        Place.CLIENT,
        CLIENT + "tls-auth ta.key\nauth none\n",
        "c.ovpn:7: 'tls-auth' needs a digest",
    ),
    ("extra certificates alone", Place.CLIENT, CLIENT + "extra-certs own.crt\n", "'extra-certs' needs 'cert'"),
    ("two identities", Place.CLIENT, CLIENT + "pkcs12 own.p12\ncert own.crt\n", "'cert' and 'pkcs12', which holds"),
    (
        "two kinds of hashes",
        Place.CLIENT,
        CLIENT + f"verify-hash {'00:' * 31}00\npeer-fingerprint {'00:' * 31}00\n",
        "'verify-hash' and 'peer-fingerprint' exclude",
    ),
    (
        "hash without authority",
        Place.SERVER,
        without("ca", SERVER) + f"verify-hash {'00:' * 31}00\npeer-fingerprint {'00:' * 31}00\n",
        "'verify-hash' needs 'ca'",
    ),
    (
        "revocation without authority",
        Place.CLIENT,
        without("ca") + f"peer-fingerprint {'00:' * 31}00\ncrl-verify list.pem\n",
        "'crl-verify' needs 'ca'",
    ),
    ("directions", Place.CLIENT, CLIENT + "tls-auth ta.key 1\nkey-direction 0\n", "contradicts the direction"),
    ("direction without key", Place.CLIENT, CLIENT + "key-direction 1\n", "no effect without 'tls-auth'"),
    ("keepalive and ping", Place.CLIENT, CLIENT + "keepalive 10 60\nping 5\n", "'ping' contradicts 'keepalive'"),
    ("keepalive and ping", Place.SERVER, SERVER + "ping-restart 5\n", "'ping-restart' contradicts 'keepalive'"),
    ("keepalive ratio", Place.CLIENT, CLIENT + "keepalive 10 19\n", "at least twice its interval"),
    (
        "two certificate types",
        Place.CLIENT,
        CLIENT + "ns-cert-type client\n",
        "'ns-cert-type' contradicts 'remote-cert-tls'",
    ),
    (
        "old certificate type",
        Place.CLIENT,
        without("remote-cert-tls") + "ns-cert-type server\n",
        "'ns-cert-type server' is taken as 'remote-cert-tls server'",
    ),
    ("old name", Place.CLIENT, CLIENT + "tls-remote /CN=vpn\n", "a whole subject is not understood"),
    ("old name", Place.CLIENT, CLIENT + "tls-remote a\nverify-x509-name a name\n", "exclude each other"),
    ("old name taken", Place.CLIENT, CLIENT + "tls-remote vpn\n", "'verify-x509-name NAME name-prefix'"),
    ("server's certificate", Place.CLIENT, without("remote-cert-tls"), "any certificate of the CA passes"),
    ("device", Place.CLIENT, CLIENT + "dev null\n", "makes no tunnel"),
    ("device", Place.CLIENT, CLIENT + "dev null\n", "makes no tunnel"),
    ("device", Place.SERVER, SERVER + "dev vpn0\n", "add 'dev-type tun'"),
    ("lport and nobind", Place.CLIENT, CLIENT + "lport 5\nnobind\n", "'lport' and 'nobind' exclude each other"),
    ("exit notify over TCP", Place.CLIENT, CLIENT + "proto tcp\nexplicit-exit-notify\n", "no effect over TCP"),
    ("client's protocol", Place.CLIENT, CLIENT + "proto tcp4-server\n", "'tcp-server' is the other end's protocol"),
    ("server's protocol", Place.SERVER, SERVER + "proto tcp-client\n", "'tcp-client' is the other end's protocol"),
    ("open control channel", Place.SERVER, without("allow-plain-tls", SERVER), "or write 'setenv opt allow-plain-tls'"),
    ("network", Place.SERVER, without("server", SERVER), "'server' is missing"),
    ("server's own certificate", Place.SERVER, without("key", without("cert", SERVER)), "'cert' is missing"),
    ("keepalive", Place.SERVER, without("keepalive", SERVER), "a vanished client is noticed late"),
    (
        "remote beside connection",
        Place.CLIENT,
        CLIENT + "<connection>\nremote b\n</connection>\n",
        "c.ovpn:2: 'remote' has no effect beside <connection> blocks",
    ),
]


@pytest.mark.parametrize(("name", "place", "text", "message"), BROKEN)
def test_broken_rule(name: str, place: Place, text: str, message: str) -> None:
    (rule,) = (rule for rule in RULES if rule.name == name)
    if rule.fatal:
        found = {
            Place.CLIENT: client_errors, Place.SERVER: server_errors, Place.STATIC: static_errors,
            Place.CONNECTS: connects_errors, Place.WAITS: waits_errors,
        }[place](text)  # fmt: skip
    else:
        loaded = client(base=text) if place is Place.CLIENT else server(base=text)
        found = list(loaded.warnings)
    assert [line for line in found if message in line], found


def test_every_rule_is_broken_here() -> None:
    assert {case[0] for case in BROKEN} == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_the_texts_that_are_broken_here_are_whole_otherwise() -> None:
    assert client().warnings == ()
    for key in ("tls-crypt ta.key\n", "tls-auth ta.key 0\nauth SHA256\n"):
        assert server(key).warnings == ()


@pytest.mark.parametrize(
    "extra",
    [
        "tls-client\npull\n",
        "tls-auth ta.key 1\nkey-direction 1\n",
        "dev vpn0\ndev-type tun\n",
        "dev tun3\n",
        "keepalive 10 20\n",
        "proto tcp-client\n",
        "ns-cert-type server\n",
    ],
)
def test_what_only_looks_like_a_breach(extra: str) -> None:
    assert client(extra).warnings == ()
