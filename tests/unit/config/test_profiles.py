# SPDX-License-Identifier: BSD-2-Clause
"""Profiles in the manner of known providers load, with truthful warnings and the right meaning.

Only the directives are the providers' (from published profiles); names, addresses and keys are made up.
"""

from __future__ import annotations

import pytest

from qubes_miragevpn.config.loader import Loaded, load_client
from qubes_miragevpn.config.model import DEFAULT_DATA_CIPHERS, ClientConfig, NameType, Proto, TlsAuth, TlsCrypt
from tests.unit.config.texts import CERTIFICATE, KEY, STATIC_KEY_FILE, read_file

CA = f"<ca>\n{CERTIFICATE}</ca>\n"
PAIR = f"<cert>\n{CERTIFICATE}</cert>\n<key>\n{KEY}</key>\n"
TLS_AUTH = f"<tls-auth>\n#\n# 2048 bit OpenVPN static key\n#\n{STATIC_KEY_FILE}</tls-auth>\n"
TLS_CRYPT = f"<tls-crypt>\n{STATIC_KEY_FILE}</tls-crypt>\n"

SURFSHARK = (
    """client
dev tun
proto udp
remote xx-yyy.prod.example.com 1194
resolv-retry infinite
remote-random
nobind
tun-mtu 1500
tun-mtu-extra 32
mssfix 1450
persist-key
persist-tun
ping 15
ping-restart 0
ping-timer-rem
reneg-sec 0
remote-cert-tls server
auth-user-pass
#comp-lzo
verb 3
pull
fast-io
cipher AES-256-CBC
auth SHA512
key-direction 1
"""
    + CA
    + TLS_AUTH
)

PROTON = (
    """# comment with a quote ' and a \\backslash
client
dev tun
proto udp

remote 192.0.2.11 5060
remote 192.0.2.12 80
remote 192.0.2.11 51820
server-poll-timeout 20

remote-random
resolv-retry infinite
nobind

cipher AES-256-GCM

setenv CLIENT_CERT 0
tun-mtu 1500
mssfix 0
persist-key
persist-tun

reneg-sec 0

remote-cert-tls server
auth-user-pass

script-security 2
#up /etc/openvpn/update-resolv-conf
#down /etc/openvpn/update-resolv-conf
"""
    + CA
    + TLS_CRYPT
)

AIRVPN = (
    """client
dev tun
remote region.vpn.example.org 443
resolv-retry infinite
nobind
persist-key
persist-tun
auth-nocache
verb 3
explicit-exit-notify 5
push-peer-info
setenv UV_IPV6 no
remote-cert-tls server
comp-lzo no
data-ciphers AES-256-GCM:AES-256-CBC:AES-192-GCM:AES-192-CBC:AES-128-GCM:AES-128-CBC
data-ciphers-fallback AES-256-CBC
proto udp
auth SHA512
"""
    + CA
    + PAIR
    + TLS_CRYPT
)

NORDVPN = (
    """client
dev tun
proto tcp
remote 192.0.2.50 443
resolv-retry infinite
remote-random
nobind
tun-mtu 1500
tun-mtu-extra 32
mssfix 1450
persist-key
persist-tun
ping 15
ping-restart 0
ping-timer-rem
reneg-sec 0
comp-lzo no
verify-x509-name CN=xx50.example.com
inactive 3600
auth-user-pass login
verb 3
pull
fast-io
cipher AES-256-CBC
auth SHA512
key-direction 1
"""
    + CA
    + TLS_AUTH
)

WINDSCRIBE = (
    """client
dev tun
proto udp
remote xx.example.com 443

nobind
auth-user-pass

resolv-retry infinite

auth SHA512
cipher AES-256-CBC
keysize 256
comp-lzo
verb 2
mute-replay-warnings
ns-cert-type server
persist-key
persist-tun
ncp-ciphers AES-256-GCM:AES-256-CBC:AES-128-GCM
verify-x509-name xx.example.com name

key-direction 1
"""
    + CA
    + TLS_AUTH
)

VPNBOOK = (
    """client
dev tun3
proto udp
remote 192.0.2.60 53
remote xx.example.com 53
resolv-retry infinite
nobind
persist-key
persist-tun
auth-user-pass
cipher AES-256-CBC
auth sha256
pull
route-delay 2
redirect-gateway
route-method exe
mute 20
sndbuf 393216
rcvbuf 393216
setenv opt block-outside-dns
ignore-unknown-option block-outside-dns
block-outside-dns
tls-version-min 1.2
down-pre
route 192.168.0.0 255.255.0.0 net_gateway
connect-retry 2 10
hand-window 30
"""
    + CA
    + PAIR
)


def load(text: str, ending: str = "\n") -> Loaded[ClientConfig]:
    return load_client(text.replace("\n", ending).encode(), file="p.ovpn", read_file=read_file)


PROFILES = {
    "surfshark": (SURFSHARK, ["tun-mtu-extra", "fast-io"]),
    "proton": (PROTON, []),
    "airvpn": (AIRVPN, []),
    "nordvpn": (NORDVPN, ["tun-mtu-extra", "fast-io"]),
    "windscribe": (WINDSCRIBE, ["keysize", "what the other end compresses", "ns-cert-type server"]),
    "vpnbook": (
        VPNBOOK,
        [
            "block-outside-dns",
            "block-outside-dns",
            "down-pre",
            "net_gateway|around the tunnel",
            "any certificate",
        ],
    ),
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("name", PROFILES)
def test_loads_with_exactly_these_warnings(name: str, ending: str) -> None:
    text, expected = PROFILES[name]
    warnings = list(load(text, ending).warnings)
    for words in expected:
        found = next((line for line in warnings if any(word in line for word in words.split("|"))), None)
        assert found is not None, (words, warnings)
        warnings.remove(found)
    assert warnings == []


def test_meaning() -> None:
    surfshark = load(SURFSHARK).config
    assert isinstance(surfshark.common.wrap, TlsAuth)
    assert (surfshark.common.wrap.direction, surfshark.common.wrap.digest) == (1, "SHA512")
    assert (surfshark.common.timers.ping, surfshark.common.timers.ping_restart) == (15, 0)
    assert surfshark.common.timers.reneg_sec == 0 and surfshark.remote_random
    assert surfshark.common.data_ciphers == (*DEFAULT_DATA_CIPHERS, "AES-256-CBC")
    assert (surfshark.common.data_ciphers_fallback, surfshark.common.digest) == ("AES-256-CBC", "SHA512")

    proton = load(PROTON).config
    assert isinstance(proton.common.wrap, TlsCrypt)
    assert [remote.port for remote in proton.remotes] == [5060, 80, 51820]
    assert (proton.common.mssfix, proton.common.timers.connect_timeout) == (0, 20)

    airvpn = load(AIRVPN).config
    assert airvpn.common.data_ciphers == (
        "AES-256-GCM", "AES-256-CBC", "AES-192-GCM", "AES-192-CBC", "AES-128-GCM", "AES-128-CBC",
    )  # fmt: skip
    assert (airvpn.common.data_ciphers_fallback, airvpn.common.digest) == ("AES-256-CBC", "SHA512")
    assert airvpn.common.identity is not None and not airvpn.auth_user_pass

    nordvpn = load(NORDVPN).config
    assert nordvpn.remotes[0].proto is Proto.TCP and nordvpn.credentials is not None
    assert nordvpn.common.peer.name is not None and nordvpn.common.peer.name.type is NameType.SUBJECT

    windscribe = load(WINDSCRIBE).config
    assert windscribe.common.peer.remote_cert_tls == "server"
    assert windscribe.common.data_ciphers == ("AES-256-GCM", "AES-256-CBC", "AES-128-GCM")

    vpnbook = load(VPNBOOK).config
    assert vpnbook.routes == () and vpnbook.redirect == frozenset() and vpnbook.common.dev == "tun3"
