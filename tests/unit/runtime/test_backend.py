# SPDX-License-Identifier: BSD-2-Clause
"""Which data plane a configuration gets, and the line that says why."""

from __future__ import annotations

import logging

import pytest

from qubes_miragevpn.config.loader import (
    load_client,
    load_point_client,
    load_point_server,
    load_server,
    load_static,
)
from qubes_miragevpn.runtime import backend
from qubes_miragevpn.runtime.backend import NATIVE, REFERENCE, VARIABLE, Config, choose
from tests.unit.config.texts import CLIENT, CONNECTS, SERVER, STATIC, WAITS, read_file


def config(text: str) -> Config:
    first = text.split(maxsplit=1)[0]
    load = {"server": load_server, "tls-client": load_point_client, "tls-server": load_point_server}.get(
        first, load_static if "secret" in text else load_client
    )
    return load(text.encode(), file="profile", read_file=read_file).config  # type: ignore[return-value]


def said(caplog: pytest.LogCaptureFixture, text: str, environ: dict[str, str]) -> str:
    """The last line about the choice for `text`."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        choose(config(text), environ)
    return caplog.records[-1].getMessage()


REFUSED = [
    (STATIC, "the native one has no static key mode"),
    (CONNECTS + "fragment 1300\n", "the native one does not cut packets (fragment)"),
    (WAITS + "data-ciphers-fallback BF-CBC\nallow-insecure-crypto BF-CBC\n", "the native one has no BF-CBC"),
    (CLIENT + "fragment 1300\n", "the native one does not cut packets (fragment)"),
    (CLIENT + "allow-compression asym\n", "the native one does not decompress (allow-compression)"),
    (CLIENT + "socks-proxy 192.0.2.9 1080\n", "the native one does not speak to a SOCKS relay"),
    (CLIENT + "data-ciphers AES-256-GCM:BF-CBC\nallow-insecure-crypto BF-CBC\n", "the native one has no BF-CBC"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_what_the_native_one_cannot_do_goes_to_the_reference(
    text: str, reason: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_loadable", lambda: True)
    assert said(caplog, text, {VARIABLE: NATIVE}) == f"data plane: {REFERENCE} ({reason})"


SERVED = [
    CLIENT,
    CONNECTS,
    WAITS,
    SERVER,
    SERVER + "client-to-client\nclient-config-dir clients\n",
    CLIENT + "proto tcp\nsocks-proxy 192.0.2.9 1080\n",
    CLIENT + "proto tcp\nhttp-proxy 192.0.2.9 8080\n",
    CLIENT + "comp-lzo no\n",
    CLIENT + "data-ciphers AES-192-GCM:AES-256-CBC:CHACHA20-POLY1305\n",
]


@pytest.mark.parametrize("text", SERVED)
def test_what_it_can_do(text: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_loadable", lambda: True)
    assert said(caplog, text, {VARIABLE: NATIVE}) == f"data plane: {NATIVE}"
    assert said(caplog, text, {VARIABLE: REFERENCE}) == f"data plane: {REFERENCE} (it was asked for)"
    assert said(caplog, text, {}) == f"data plane: {NATIVE}"


def test_without_the_native_one(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "NATIVE_MODULE", "qubes_miragevpn.dataplane._absent")
    for environ in ({}, {VARIABLE: NATIVE}):
        assert said(caplog, CLIENT, environ) == f"data plane: {REFERENCE} (the native one is not built)"
        assert caplog.records[-1].levelno == (logging.WARNING if environ else logging.INFO)
    assert choose(config(CLIENT), {}).make().name == REFERENCE


def test_a_name_that_is_none_is_no_choice(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "NATIVE_MODULE", "qubes_miragevpn.dataplane._absent")
    said(caplog, CLIENT, {VARIABLE: "fast\n"})
    assert caplog.records[0].getMessage() == f"{VARIABLE} names no data plane: fast\\x0a ({REFERENCE} or {NATIVE})"


@pytest.mark.needs_native
def test_the_native_one_is_made() -> None:
    assert choose(config(CLIENT), {VARIABLE: NATIVE}).make().name == NATIVE
