# SPDX-License-Identifier: BSD-2-Clause
"""How the service's answers look to a person."""

from __future__ import annotations

import io
import tarfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.cli.remote import ROWS, SHOWN, _shown
from tests.unit.config.trust import Made


def tunnel(state: str, profile: str | None, *, reason: str = "", question: str = "") -> dict[str, Any]:
    return {"state": state, "profile": profile, "reason": reason, "question": question}


DETAILS = {
    "tunnels": {
        "vpn0": tunnel("connected", "work"),
        "vpn1": tunnel("connecting", "home", reason="profile old failed: back to home", question="code?"),
        "vpn2": tunnel("failed", None, reason="no profile is chosen"),
    },
    "downstream": {
        "vif3.0": ["10.137.0.3", "fd09:24ef:4179::a89:3"],
        "vif4.0": ["10.137.0.4"],
        "vif5.0": ["10.137.0.5"],
        "vif6.0": [],
    },
    "assigned": {"10.137.0.4": "vpn1", "10.137.0.5": "vpn7", "10.137.0.99": "vpn2"},
}


def test_details_say_who_uses_which_tunnel() -> None:
    """A qube whose tunnel does not exist, or that is not known yet, is closed; who is assigned and away is told."""
    assert _shown("details", DETAILS).splitlines() == [
        "vpn0         connected   work",
        "vpn1         connecting  home code?",
        "vpn2         failed      no profile is chosen",
        "vif3.0       vpn0        10.137.0.3 fd09:24ef:4179::a89:3",
        "vif4.0       vpn1        10.137.0.4",
        "vif5.0       closed      10.137.0.5",
        "vif6.0       closed",
        "10.137.0.99  vpn2        not there",
    ]
    alone = {"tunnels": {"vpn0": tunnel("closed", None)}, "downstream": {"vif6.0": []}, "assigned": {}}
    assert _shown("details", alone).splitlines() == ["vpn0    closed", "vif6.0  vpn0"]


@pytest.mark.parametrize(
    ("verb", "result", "shown"),
    [
        ("profiles", {"profiles": [], "current": None}, "no profiles: `miragevpn import NAME FILE` stores one"),
        ("profiles", {"profiles": ["a", "b"], "current": "b", "default": "a"}, "  a (default)\n* b"),
        ("default", {"default": None}, "no default: a boot begins with the profile used last"),
        ("default", {"default": "a"}, "default    a"),
        ("status", {"state": "closed", "profile": None, "bytes_in": 0}, "state      closed\nbytes in   0"),
        ("credentials", {"profile": "a", "credentials": "set"}, "profile     a\ncredentials set"),
        ("import", {"profile": "a", "warnings": ["one", "two"]}, "profile    a\nwarnings   one\n           two"),
    ],
)  # fmt: skip
def test_nothing_is_shown_as_an_empty_line(verb: str, result: dict[str, Any], shown: str) -> None:
    assert _shown(verb, result) == shown
    assert verb in ROWS and set(SHOWN) <= set(ROWS)


def test_an_answer_that_is_no_object() -> None:
    with pytest.raises(MirageError, match="not understood"):
        _shown("status", ["no"])


def test_a_locked_key_beside_a_profile_is_handed_in_as_well(tmp_path: Path) -> None:
    """Its password is asked for when the profile is used, not by the command that stores it."""
    authority = Made("authority")
    own = Made("own", authority)
    files = {"ca.pem": authority.pem, "own.pem": own.pem, "keys/own.key": own.key_pem(b"sesame")}
    files["home.ovpn"] = "client\nremote vpn.example 1194\nca ca.pem\ncert own.pem\nkey keys/own.key\n"
    (tmp_path / "keys").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    payload = ROWS["import"].payload
    assert payload is not None
    with tarfile.open(fileobj=io.BytesIO(payload(Namespace(file=str(tmp_path / "home.ovpn"))))) as tar:
        assert sorted(tar.getnames()) == ["ca.pem", "keys/own.key", "own.pem", "profile.ovpn"]
