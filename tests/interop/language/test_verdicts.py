# SPDX-License-Identifier: BSD-2-Clause
"""openvpn's verdict and ours on the same texts; where they differ, doc/differences-from-openvpn.md says why.

Every option that openvpn knows is written with a few arguments into a client's and a server's file, and some hundred
texts are made by a seeded generator or by hand.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.language.differences import LAXER, STRICTER, Judged, reason
from tests.interop.language.judge import CLIENT, NOT_JUDGED, SERVER, STATIC, judge, write_files
from tests.interop.language.serving import ADDRESSES, BARE
from tests.unit.config.test_profiles import PROFILES

ROOT = Path(__file__).parents[3]
OPTIONS = [
    line
    for line in (ROOT / "tests/unit/config/openvpn_options.txt").read_text().splitlines()
    if not line.startswith("#") and line not in NOT_JUDGED
]
PROMPTS = {("auth-user-pass", ""), ("http-proxy-user-pass", "stdin")}  # they wait for somebody to type
LARGE = "x" * 300

BY_HAND: dict[str, str] = {
    "plain": "",
    "comment": "# a comment\n; another\nverb 3 # behind\n",
    "quotes": 'verify-x509-name "C=AA, CN=a \\"b\\"" subject\n',
    "single quotes": "verify-x509-name 'C=AA, CN=a' subject\n",
    "dashes": "--verb 3\n",
    "tabs": "verb\t3\n",
    "carriage returns": "verb 3\r\nmute 5\r\n",
    "unclosed quote": 'verb "3\n',
    "unknown": "nonsense 1\n",
    "unknown as opt": "setenv opt nonsense 1\n",
    "ignore-unknown-option": "ignore-unknown-option nonsense\nnonsense 1\n",
    "ignore-unknown-option below": "nonsense 1\nignore-unknown-option nonsense\n",
    "UV": "setenv UV_IPV6 no\npush-peer-info\n",
    "long line": f"echo {LARGE}\n",
    "block": "<connection>\nremote 192.0.2.9 443 tcp\n</connection>\n",
    "block with options": "<connection>\nremote 192.0.2.9\nmssfix 1300\nconnect-timeout 5\n</connection>\n",
    "block without remote": "<connection>\nmssfix 1300\n</connection>\n",
    "block with a global option": "<connection>\nremote 192.0.2.9\nverb 3\n</connection>\n",
    "unclosed block": "<ca>\n",
    "closing tag": "</ca>\n",
    "two wraps": "tls-auth ta.key 1\ntls-crypt ta.key\n",
    "tls-auth": "tls-auth ta.key 1\n",
    "tls-crypt": "tls-crypt ta.key\n",
    "key without cert": "key own.key\n",
    "cert without key": "cert own.crt\n",
    "pair": "cert own.crt\nkey own.key\n",
    "crl": "crl-verify list.pem\n",
    "missing file": "tls-crypt nowhere.key\n",
    "wrong file": "tls-crypt ca.crt\n",
    "include": "config more.conf\n",
    "include missing": "config nowhere.conf\n",
    "include itself": "config judged.conf\n",
    "tls versions": "tls-version-min 1.2\ntls-version-max 1.3\n",
    "tls version unknown": "tls-version-min 1.9\n",
    "or-highest": "tls-version-min 1.9 or-highest\n",
    "ciphers": "data-ciphers AES-256-GCM:AES-128-GCM\n",
    "cipher unknown": "data-ciphers NONSENSE\n",
    "optional cipher": "data-ciphers AES-256-GCM:?NONSENSE\n",
    "blowfish": "data-ciphers BF-CBC\n",
    "digest": "auth SHA512\n",
    "digest unknown": "auth NONSENSE\n",
    "proto and explicit-exit-notify": "proto tcp\nexplicit-exit-notify\n",
    "nobind and lport": "nobind\nlport 5\n",
    "keepalive": "keepalive 10 60\n",
    "keepalive too short": "keepalive 10 15\n",
    "no remote": "",
    "route": "route 10.0.0.0 255.0.0.0 vpn_gateway 5\nroute-ipv6 fd00::/8\n",
    "keepalive and ping": "keepalive 10 60\nping 5\n",
    "dns": "dns server 1\n",
    "route with a wrong mask": "route 10.0.0.0 255.0.255.0\n",
    "pull-filter": 'pull-filter ignore "route "\n',
    "backslash": "echo a\\b\n",
    "tap": "dev tap\n",
    "null": "dev null\n",
    "pinned": f"peer-fingerprint {':'.join(['ab'] * 32)}\n",
}

STATIC_BY_HAND: dict[str, str] = {
    "static": STATIC,
    "static without consent": STATIC.replace("setenv opt allow", "# allow"),
    "static with plain consent": STATIC.replace("setenv opt ", ""),
    "static without cipher": STATIC.replace("cipher", "# cipher"),
    "static with GCM": STATIC.replace("256-CBC", "256-GCM"),
    "static with an old cipher": STATIC.replace("AES-256-CBC", "BF-CBC"),
    "static with no cipher": STATIC.replace("AES-256-CBC", "none"),
    "static with no digest": STATIC + "auth none\n",
    "static without addresses": STATIC.replace("ifconfig", "# ifconfig"),
    "static without remote": STATIC.replace("remote", "# remote"),
    "static with pings": STATIC + "keepalive 10 60\n",
    "static over TCP": STATIC + "proto tcp-client\n",
    "static with a wrong key": STATIC.replace("ta.key", "ca.crt"),
    "static with a direction that is none": STATIC.replace("ta.key 0", "ta.key 2"),
    **{
        f"static with {line}": f"{STATIC}{line}\n"
        for line in (
            "client", "tls-client", "pull", "ca ca.crt", "cert own.crt", "key own.key", "remote-cert-tls server",
            "verify-x509-name a name", "tls-auth ta.key", "tls-crypt ta.key", "auth-user-pass login",
            "crl-verify list.pem", "tls-version-min 1.2", "tls-cipher DEFAULT", "tls-groups X25519",
            "data-ciphers AES-256-CBC", "data-ciphers-fallback AES-256-CBC", "reneg-sec 600", "remote-cert-ku",
            "tls-cert-profile preferred", "server 10.8.0.0 255.255.255.0", "topology p2p", "float", "nobind",
            "ifconfig-ipv6 fd01::2/64 fd01::1", "route 10.0.0.0 255.0.0.0", "fragment 1300", "comp-lzo no",
        )
    },
}  # fmt: skip


def cases() -> Iterator[tuple[str, str, bool, str]]:
    """Name, words, whether it is a server's, and the text."""
    for name, lines in BY_HAND.items():
        base = CLIENT.replace("remote 192.0.2.1\n", "") if name in ("no remote", "block without remote") else CLIENT
        yield name, "", False, base + lines
    yield "server without a key", "", True, SERVER.replace("setenv opt allow-plain-tls\n", "")
    yield "server with plain consent", "", True, SERVER.replace("setenv opt allow", "allow")
    for number, text in enumerate(ADDRESSES):
        yield f"addresses {number}", "", True, BARE + text
    for name, text in STATIC_BY_HAND.items():
        yield name, "", False, text
    for name, (text, _) in PROFILES.items():
        yield name, "", False, text.replace("auth-user-pass\n", "auth-user-pass login\n")  # nobody is there to type
    for name in OPTIONS:
        for words in ("", "1", "10.0.0.0 255.0.0.0"):
            if (name, words) not in PROMPTS:
                yield name, words, False, f"{CLIENT}{name} {words}\n"
        yield name, "1", True, f"{SERVER}{name} 1\n"
    source = random.Random(1)
    for _ in range(60):
        name = source.choice([one for one in OPTIONS if "pass" not in one])
        words = " ".join(source.choice(("2", "x", "ca.crt", "tcp", "server", "no", "300")) for _ in range(2))
        yield name, words, False, f"{CLIENT}{name} {words}\n"


@pytest.mark.needs_openvpn
@pytest.mark.time_limit(120)
def test_every_difference_has_a_reason(tmp_path: Path) -> None:
    write_files(tmp_path)
    unexplained: list[str] = []
    found: dict[str, int] = defaultdict(int)
    judged = agreed = 0
    for name, words, server, text in cases():
        verdicts = judge(text.encode(), tmp_path, server=server)
        judged += 1
        if verdicts.openvpn == verdicts.ours:
            agreed += 1
            continue
        why = reason(Judged(name, words, server, verdicts))
        if why is None:
            unexplained.append(f"{name!r} {words!r} server={server}: {verdicts}")
        else:
            found[why] += 1
    print(f"{judged} texts, {agreed} verdicts alike, differences: {dict(found)}")
    assert not unexplained, "\n".join(unexplained)
    assert judged > 900 and agreed > judged // 3
    never = {*LAXER, *STRICTER} - found.keys()
    assert not never, f"reasons that nothing shows any more: {never}"


def test_the_document_lists_every_reason() -> None:
    text = (ROOT / "doc" / "differences-from-openvpn.md").read_text(encoding="utf-8")
    stricter, laxer = text.split("## What openvpn refuses")
    for part, table in ((stricter, STRICTER), (laxer, LAXER)):
        assert set(re.findall(r"^\| \*\*(.+?)\*\* \|", part, re.M)) == set(table)
