# SPDX-License-Identifier: BSD-2-Clause
"""Files and blocks with keys, certificates and passwords: what is taken, what is refused; nothing is quoted."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.loader import load_client
from qubes_miragevpn.config.model import Credentials
from tests.unit.config.texts import CERTIFICATE, CLIENT, FILES, KEY, STATIC_KEY_FILE, pem, read_file, without
from tests.unit.config.trust import self_signed

HIDDEN = "h1dd3n"
BASE = without("auth-user-pass", without("ca"))


def error_of(text: str, files: dict[str, str] | None = None) -> str:
    def reader(path: str) -> bytes:
        return files[path].encode() if files and path in files else read_file(path)

    with pytest.raises(ConfigError) as caught:
        load_client((BASE + text).encode(), file="c.ovpn", read_file=reader)
    assert HIDDEN not in str(caught.value)
    assert caught.value.line and caught.value.file == "c.ovpn"
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (f"<ca>\n{HIDDEN}\n</ca>\nauth-user-pass\n", "'ca' holds no certificate (it must be PEM"),
        (f"<ca>\n{KEY}</ca>\nauth-user-pass\n", "'ca' holds no certificate"),
        (f"<ca>\n{CERTIFICATE[:-30]}\n</ca>\nauth-user-pass\n", "'ca' is cut: a PEM block does not end"),
        (f"<ca>\n{CERTIFICATE.replace('MII', '!MII')}</ca>\nauth-user-pass\n", "'ca' is damaged"),
        (f"<ca>\n{pem('CERTIFICATE', b'text')}</ca>\nauth-user-pass\n", "'ca' is damaged"),
        (f"ca ca.crt\ncert own.crt\n<key>\n{CERTIFICATE}</key>\n", "'key' holds no private key"),
        (f"ca ca.crt\ncert own.crt\n<key>\n{pem('PRIVATE KEY')}</key>\n", "the private key cannot be read"),
        (
            "ca ca.crt\ncert own.crt\n<key>\n"
            + pem("RSA PRIVATE KEY").replace("-\nM", "-\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nM", 1)
            + "</key>\n",
            "the private key is encrypted, and there is no password for it (write 'askpass FILE'",
        ),
        (f"ca ca.crt\nauth-user-pass\n<tls-crypt>\n{HIDDEN}\n</tls-crypt>\n", "'tls-crypt': no static key"),
        (
            "ca ca.crt\nauth-user-pass\n<tls-auth>\n"
            + STATIC_KEY_FILE.replace("0f\n", HIDDEN + "\n")
            + "</tls-auth>\n",
            "'tls-auth': the static key holds something that is not hexadecimal",
        ),
        (f"ca ca.crt\n<auth-user-pass>\n{HIDDEN * 30}\nx\n</auth-user-pass>\n", "has more than 127 bytes"),
        (f"ca ca.crt\n<auth-user-pass>\n\n{HIDDEN}\n</auth-user-pass>\n", "there is no user name"),
        (f"ca ca.crt\n<auth-user-pass>\na\n{HIDDEN}\x1b\n</auth-user-pass>\n", "control character"),
        ("ca ca.crt\n<auth-user-pass>\n</auth-user-pass>\n", "there is no user name"),
        ("auth-user-pass\nca nowhere.crt\n", "c.ovpn:5: cannot read 'nowhere.crt' of 'ca': No such file or directory"),
        ("auth-user-pass\nca 'a\x20b'\n", "cannot read 'a b' of 'ca'"),
    ],
)
def test_errors(text: str, error: str) -> None:
    assert error in error_of(text)


@pytest.mark.parametrize(
    ("directive", "base"),
    [
        ("ca", "auth-user-pass\n"),
        ("tls-auth", "ca ca.crt\nauth-user-pass\n"),
        ("tls-crypt", "ca ca.crt\nauth-user-pass\n"),
        ("cert", "ca ca.crt\nkey own.key\n"),
        ("key", "ca ca.crt\ncert own.crt\n"),
    ],
)
@pytest.mark.parametrize("content", [HIDDEN, f"-----BEGIN {HIDDEN}-----", f"root:{HIDDEN}:0:0\n" * 9, ""])
def test_no_file_s_content_gets_into_a_message(directive: str, base: str, content: str) -> None:
    assert f"'{directive}'" in error_of(f"{base}{directive} shadow\n", {"shadow": content})


@pytest.mark.parametrize("text", ["alice\nsecret\n", "alice\r\nsecret", "\ufeffalice\r\nsecret\r\n\r\n"])
def test_a_login_is_the_same_whoever_wrote_the_file(text: str) -> None:
    files = {**FILES, "login": text}
    lines = without("auth-user-pass") + "auth-user-pass login\n"
    config = load_client(lines.encode(), file="c", read_file=lambda path: files[path].encode()).config
    assert config.credentials == Credentials("alice", Secret(b"secret"))


def test_a_file_is_bounded() -> None:
    assert "has more than 1048576 bytes" in error_of("auth-user-pass\nca big\n", {"big": "x" * ((1 << 20) + 1)})


def test_only_certificates_are_kept_of_a_file() -> None:
    text = f"subject=...\n{CERTIFICATE}junk\n{pem('DH PARAMETERS')}{CERTIFICATE}"
    loaded = load_client(
        CLIENT.encode(), file="c", read_file=lambda path: text.encode() if path == "ca.crt" else read_file(path)
    )
    assert loaded.config.common.peer.ca_pem == (CERTIFICATE * 2).encode()


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_kinds_of_private_keys(kind: str, form: PrivateFormat) -> None:
    key = load_pem_private_key(KEY.encode(), None) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    text = key.private_bytes(Encoding.PEM, form, NoEncryption()).decode()
    files = {**FILES, "own.key": pem("EC PARAMETERS", b"\x30\x00") + text, "own.crt": self_signed(key)}
    loaded = load_client(
        (CLIENT + "cert own.crt\nkey own.key\n").encode(), file="c", read_file=lambda path: files[path].encode()
    )
    identity = loaded.config.common.identity
    assert identity is not None and identity.key_pem.reveal().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert text[60:80] not in repr(loaded)
