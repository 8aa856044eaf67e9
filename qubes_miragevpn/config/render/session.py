# SPDX-License-Identifier: BSD-2-Clause
"""What every role's session has, as lines: interface, TLS, ciphers, sizes, times."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from qubes_miragevpn.config.model import Common, Compression, Timers, TlsChoices, TlsVersions
from qubes_miragevpn.config.quoting import line_of
from qubes_miragevpn.config.rows.table import SUBJECTS
from qubes_miragevpn.crypto.digests import INSECURE_DIGESTS
from qubes_miragevpn.crypto.suites import SUITES

_LEVELS = ("insecure", "legacy", "preferred", "suiteb")


def filled(model: Any) -> Iterator[str]:
    """The directives whose rows fill a field of `model` that is not at its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(model)}
    for row in (row for rows in SUBJECTS.values() for row in rows):
        if row.fills is None or row.fills[0] is not type(model):
            continue
        value = getattr(model, row.fills[1])
        if value != defaults[row.fills[1]]:
            yield row.name if value is True else line_of(row.name, value)


def device(common: Common) -> Iterator[str]:
    """Name and kind of the interface."""
    yield line_of("dev", common.dev)
    if not common.dev.startswith("tap" if common.ethernet else "tun"):
        yield f"dev-type {'tap' if common.ethernet else 'tun'}"


def versions(tls: TlsVersions) -> Iterator[str]:
    """Bounds of the TLS version."""
    yield f"tls-version-min {tls.minimum[0]}.{tls.minimum[1]}"
    if tls.maximum is not None:
        yield f"tls-version-max {tls.maximum[0]}.{tls.maximum[1]}"


def choices(choices: TlsChoices) -> Iterator[str]:
    """What a handshake may use."""
    for name, value in (
        ("tls-cipher", choices.ciphers),
        ("tls-ciphersuites", choices.suites),
        ("tls-groups", choices.groups),
    ):
        if value:
            yield line_of(name, value)
    if choices.security_level is not None:
        yield line_of("tls-cert-profile", _LEVELS[choices.security_level])


def ciphers(common: Common) -> Iterator[str]:
    """Data ciphers and digest."""
    fallback = common.data_ciphers_fallback
    named: Iterable[str] = (*common.data_ciphers, *filter(None, (fallback, common.digest)))
    yield from insecure(named)
    yield line_of("data-ciphers", ":".join(common.data_ciphers))
    if fallback is not None:
        yield line_of("data-ciphers-fallback", fallback)
    yield line_of("auth", common.digest or "none")


def insecure(named: Iterable[str]) -> Iterator[str]:
    """Consent to those of the algorithms `named` that need it."""
    insecure = [name for name in named if name in INSECURE_DIGESTS or (name in SUITES and SUITES[name].insecure)]
    if insecure:
        yield line_of("allow-insecure-crypto", *dict.fromkeys(insecure))


def timers(timers: Timers, usual: Timers) -> Iterator[str]:
    """Time and volume limits that are not the `usual` ones."""
    yield from filled(timers)
    if timers.reneg_sec != usual.reneg_sec or timers.reneg_sec_least is not None:
        yield line_of("reneg-sec", timers.reneg_sec, timers.reneg_sec_least)
    if (timers.connect_retry, timers.connect_retry_max_pause) != (usual.connect_retry, usual.connect_retry_max_pause):
        yield line_of("connect-retry", timers.connect_retry, timers.connect_retry_max_pause)
    if timers.inactive:
        yield line_of("inactive", timers.inactive, timers.inactive_bytes or None)
    if timers.ping:
        yield line_of("ping", timers.ping)
    if timers.ping_exit:
        yield line_of("ping-exit", timers.ping_exit)
    elif timers.ping_restart != usual.ping_restart:
        yield line_of("ping-restart", timers.ping_restart)


def compression(common: Common) -> Iterator[str]:
    """The framing, and whether compressed packets are let in."""
    if common.decompress:
        yield "allow-compression asym"
    if common.compression is not Compression.NONE:
        yield common.compression.value


def session(common: Common) -> Iterator[str]:
    """What a <connection> block may say of its own as well."""
    yield line_of("mssfix", common.mssfix, (common.mssfix_of.value or None) if common.mssfix else None)
    if common.fragment:
        yield line_of("fragment", common.fragment, common.fragment_of.value or None)
    yield line_of("explicit-exit-notify", common.explicit_exit_notify)
    if (common.replay_window, common.replay_time) != (Common.replay_window, Common.replay_time):
        yield line_of("replay-window", common.replay_window, common.replay_time)
    yield from filled(common)
