# SPDX-License-Identifier: BSD-2-Clause
"""The tokens, refusals and updates that OpenVPN's own tests have; and that no file of vectors is without its test."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto import token
from qubes_miragevpn.crypto.token import Token
from qubes_miragevpn.protocol.pushes import Pushes
from qubes_miragevpn.protocol.wire.authfailed import Advance, NotNow, read_failure
from qubes_miragevpn.protocol.wire.messages import PushUpdate, split_record

HERE = Path(__file__).parent
LOGIN = json.loads((HERE / "login.json").read_text(encoding="utf-8"))
UPDATE = json.loads((HERE / "push_update.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", LOGIN["tokens"], ids=lambda vector: vector["origin"])
def test_tokens(vector: dict[str, Any]) -> None:
    made = Token(base64.b64decode(vector["session_id"]), vector["began"], vector["renewed"])
    secret, said = Secret(bytes.fromhex(vector["secret"])), vector["token"].encode()
    assert token.seal(made, vector["owner"], secret) == said
    assert token.is_token(said) and token.open_token(said, vector["owner"], secret) == made
    for owner, other in ((vector["owner"] + "x", secret), ("", secret), (vector["owner"], Secret(b"\1" * 32))):
        with pytest.raises(PeerError):
            token.open_token(said, owner, other)


@pytest.mark.parametrize("password", LOGIN["no_tokens"]["passwords"])
def test_no_tokens(password: str) -> None:
    with pytest.raises(PeerError):
        token.open_token(password.encode(), "test user name", Secret(bytes(32)))


@pytest.mark.parametrize("vector", LOGIN["not_now"], ids=lambda vector: vector["reason"])
def test_refusals_for_the_moment(vector: dict[str, Any]) -> None:
    expected = NotNow(vector["text"], vector["backoff"], Advance(vector["advance"]))
    assert read_failure(vector["reason"]) == expected


@pytest.mark.parametrize("case", UPDATE["cases"], ids=lambda case: case["origin"])
def test_updates(case: dict[str, Any]) -> None:
    pushes = Pushes()
    assert pushes.reply(tuple(UPDATE["before"]), more=False)
    result = None
    for text in case["messages"]:
        [message] = split_record(text.encode() + b"\0")
        if not isinstance(message, PushUpdate):
            break
        try:
            result = pushes.update(message.options, 0.0, more=message.more)
        except PeerError:
            break
    assert (None if result is None else list(result.options)) == case["after"]


def test_every_file_has_its_test() -> None:
    tests = HERE.parent
    readers = "".join(path.read_text(encoding="utf-8") for path in tests.rglob("test_*.py"))
    for path in HERE.glob("*.json"):
        assert f'"{path.name}"' in readers, path.name
