# SPDX-License-Identifier: BSD-2-Clause
"""Texts that the tests of configurations are made of. The keys and certificates were made for them."""

from __future__ import annotations

import base64

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.loader import (
    Examined,
    Loaded,
    examine_client,
    examine_point_client,
    examine_point_server,
    examine_server,
    examine_static,
    load_client,
    load_server,
)
from qubes_miragevpn.config.model import ClientConfig, ServerConfig, StaticConfig
from qubes_miragevpn.crypto.keyfiles import ClientKey, render_client_key, render_server_key, render_static_key
from qubes_miragevpn.crypto.wrappedkey import timestamp_metadata, wrap_client_key

STATIC_KEY = bytes(range(256))
STATIC_KEY_FILE = render_static_key(STATIC_KEY)
SERVER_KEY = Secret(bytes(range(128)))
CLIENT_KEY = ClientKey(
    Secret(STATIC_KEY), wrap_client_key(SERVER_KEY, Secret(STATIC_KEY), timestamp_metadata(1_700_000_000))
)


def pem(label: str, der: bytes = b"\x30\x03\x02\x01\x05") -> str:
    """A PEM block around `der`."""
    return f"-----BEGIN {label}-----\n{base64.b64encode(der).decode()}\n-----END {label}-----\n"


# A certificate of an authority, valid from 2020 to 2119, and its key, which is used nowhere else.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBJzCBzqADAgECAgFNMAoGCCqGSM49BAMCMBIxEDAOBgNVBAMMB2V4YW1wbGUw
IBcNMjAwMTAxMDAwMDAwWhgPMjExOTEyMDgwMDAwMDBaMBIxEDAOBgNVBAMMB2V4
YW1wbGUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQZf29NNHvBJXuUSZzD3IC1
MZbe7mZPdZenTi/iE7e97SWDHvcgrv82U7bqpz8cvxkePuTGRFZ/BqF/4LfbkAoI
oxMwETAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIAcRgmGo4xex
Vc24p4CPLtANv0Wopgcj1aZVUYyxHupTAiEAztawYL76+aUJ9qU2XwCRrvNiadP9
sxxTrfck7sBaf18=
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCwYfU7Jt1N/NOIe9
mj+X6TN8hdaWdOYKZVdk8U1jF9ihRANCAAQZf29NNHvBJXuUSZzD3IC1MZbe7mZP
dZenTi/iE7e97SWDHvcgrv82U7bqpz8cvxkePuTGRFZ/BqF/4LfbkAoI
-----END PRIVATE KEY-----
"""

FILES = {
    "ca.crt": CERTIFICATE,
    "own.crt": "Certificate:\n    Data: ...\n" + CERTIFICATE,
    "own.key": KEY,
    "ta.key": STATIC_KEY_FILE,
    "v2-server.key": render_server_key(SERVER_KEY),
    "v2-client.key": render_client_key(CLIENT_KEY),
    "login": "alice\nsecret-password\n",
}

# A client profile that loads without a warning, and a server's configuration that does.
CLIENT = "client\nremote vpn.example.org\nca ca.crt\nauth-user-pass\nremote-cert-tls server\n"
SERVER = (
    "server 10.8.0.0 255.255.255.0\nca ca.crt\ncert own.crt\nkey own.key\ntopology subnet\nkeepalive 10 60\ndh none\n"
    "allow-plain-tls\n"
)

# One of the static key mode.
STATIC = """dev tun
secret ta.key 0
cipher AES-256-CBC
ifconfig 10.1.0.2 10.1.0.1
remote 192.0.2.1
allow-deprecated-insecure-static-crypto
"""

# Both ends of a TLS tunnel between two.
CONNECTS = (
    "tls-client\nremote vpn.example.org\nca ca.crt\ncert own.crt\nkey own.key\nremote-cert-tls server\n"
    "ifconfig 10.1.0.2 10.1.0.1\n"
)
WAITS = "tls-server\nca ca.crt\ncert own.crt\nkey own.key\nifconfig 10.1.0.1 10.1.0.2\n"


def read_file(path: str) -> bytes:
    """The reader of `FILES`."""
    try:
        return FILES[path].encode()
    except KeyError:
        raise FileNotFoundError(2, "No such file or directory", path) from None


def client(extra: str = "", base: str = CLIENT) -> Loaded[ClientConfig]:
    """Load a client profile: `base` and what the test adds."""
    return load_client((base + extra).encode("utf-8", "surrogateescape"), file="c.ovpn", read_file=read_file)


def server(extra: str = "", base: str = SERVER) -> Loaded[ServerConfig]:
    """Load a server's configuration: `base` and what the test adds."""
    return load_server((base + extra).encode(), file="s.conf", read_file=read_file)


def without(name: str, base: str = CLIENT) -> str:
    """`base` without the lines of one directive."""
    return "".join(line for line in base.splitlines(keepends=True) if line.split()[0] != name)


def client_errors(text: str) -> list[str]:
    """Every error in a client profile."""
    return _errors(examine_client(text.encode(), file="c.ovpn", read_file=read_file))


def static_errors(text: str) -> list[str]:
    """Every error in a file of the static key mode."""
    return _errors(examine_static(text.encode(), file="k.conf", read_file=read_file))


def connects_errors(text: str) -> list[str]:
    """Every error in a file of the connecting end of a TLS tunnel between two."""
    return _errors(examine_point_client(text.encode(), file="p.conf", read_file=read_file))


def waits_errors(text: str) -> list[str]:
    """Every error in one of the waiting end."""
    return _errors(examine_point_server(text.encode(), file="p.conf", read_file=read_file))


def server_errors(text: str) -> list[str]:
    """Every error in a server's configuration."""
    return _errors(examine_server(text.encode(), file="s.conf", read_file=read_file))


def _errors(examined: Examined[ClientConfig] | Examined[ServerConfig] | Examined[StaticConfig]) -> list[str]:
    return [str(error) for error in examined.errors]
