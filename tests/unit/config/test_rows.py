# SPDX-License-Identifier: BSD-2-Clause
"""The table of rows as a whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from qubes_miragevpn.config.pushed.reply import _TAKEN, REDIRECT_KEPT
from qubes_miragevpn.config.reading.collect import Place, collect
from qubes_miragevpn.config.rows.document import render
from qubes_miragevpn.config.rows.routing import REDIRECT_FLAGS
from qubes_miragevpn.config.rows.row import APPLIED, Applied, ByFirstWord, NoEffect, Refused, Row
from qubes_miragevpn.config.rows.table import ROWS, SUBJECTS

ALL = [row for rows in SUBJECTS.values() for row in rows]
OPTIONS = Path(__file__).parents[3] / "doc" / "options.md"


def test_document_is_made_from_the_rows() -> None:
    assert OPTIONS.read_text(encoding="utf-8") == render(), "make doc/options.md again: see config/document.py"


OPENVPN_OPTIONS = (Path(__file__).parent / "openvpn_options.txt").read_text(encoding="ascii").splitlines()


@pytest.mark.parametrize("name", [line for line in OPENVPN_OPTIONS if not line.startswith("#")])
def test_every_option_of_openvpn_has_a_row(name: str) -> None:
    assert name in ROWS


def test_every_row_is_found_by_its_name_and_aliases() -> None:
    assert all(ROWS[name] is row for row in ALL for name in (row.name, *row.aliases))
    assert len(ROWS) == sum(1 + len(row.aliases) for row in ALL)


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_row_is_whole(row: Row) -> None:
    fates = [fate for fate in (row.client, row.server, row.pushed) if fate is not None]
    assert fates, "a row that may stand nowhere"
    if APPLIED in fates or any(isinstance(fate, ByFirstWord) for fate in fates):
        assert row.summary or not any(isinstance(fate, Applied) for fate in fates)
        assert row.args is not None, "words of an applied row are read"
    for fate in fates:
        if isinstance(fate, Refused):
            assert fate.reason and fate.fix
        if isinstance(fate, NoEffect):
            assert fate.reason
    optional = [arg.optional for arg in row.args or ()]
    assert optional == sorted(optional), "what may be left out comes last"


@pytest.mark.parametrize("row", [row for row in ALL if row.fills], ids=lambda row: row.name)
def test_fills_name_a_field_of_the_model(row: Row) -> None:
    assert row.fills is not None
    model, name = row.fills
    assert name in {field.name for field in dataclasses.fields(model)}
    assert len([arg for arg in row.args or () if not arg.optional]) <= 1


def test_what_may_be_pushed_and_applied_has_a_handler() -> None:
    pushed = {row.name for row in ALL if row.pushed is not None and not isinstance(row.pushed, NoEffect)}
    assert pushed == set(_TAKEN)


def test_redirect_flags_are_known() -> None:
    assert set(REDIRECT_FLAGS) >= REDIRECT_KEPT


@pytest.mark.parametrize("row", [row for row in ALL if isinstance(row.client, Refused)], ids=lambda row: row.name)
@pytest.mark.parametrize("form", ["{0} 192.0.2.77", "<{0}>\n192.0.2.77\n</{0}>"])
def test_refused_rows_are_errors_with_advice_in_every_form(row: Row, form: str) -> None:
    for place in (Place.CLIENT, Place.SERVER):
        fate = row.client if place is Place.CLIENT else row.server
        if not isinstance(fate, Refused) or (row.args is not None and form[0] == "<"):
            continue
        _, findings = collect(form.format(row.name).encode(), file="f", place=place)
        (error,) = findings.errors
        assert row.name in error.problem and error.fix and error.line == 1
        assert "192.0.2.77" not in str(error)


@pytest.mark.parametrize("row", [row for row in ALL if isinstance(row.client, NoEffect)], ids=lambda row: row.name)
def test_rows_without_effect_load_and_tell(row: Row) -> None:
    if row.args is not None:
        return
    assert isinstance(row.client, NoEffect)
    settings, findings = collect(f"{row.name} any words".encode(), file="f", place=Place.CLIENT)
    assert not settings.entries and not findings.errors
    assert len(findings.warnings) == row.client.warn
    assert all(row.name in line and line.startswith("f:1: ") for line in findings.warnings)


SAFER = (
    "crl-verify", "verify-hash", "remote-cert-ku", "remote-cert-eku", "tls-verify",
    "capath",
    "x509-username-field", "tls-ciphersuites", "tls-groups", "tls-cert-profile",
    "auth-user-pass-verify", "ccd-exclusive", "client-connect", "auth-gen-token", "secret",
)  # fmt: skip


@pytest.mark.parametrize("name", SAFER)
def test_nothing_that_makes_a_connection_safer_is_ignored(name: str) -> None:
    row = ROWS[name]
    for fate in (row.client, row.server):
        outcomes = (*fate.fates.values(), fate.otherwise) if isinstance(fate, ByFirstWord) else (fate,)
        assert not any(isinstance(outcome, NoEffect) for outcome in outcomes)
