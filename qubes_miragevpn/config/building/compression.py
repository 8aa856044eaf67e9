# SPDX-License-Identifier: BSD-2-Clause
"""``comp-lzo`` and ``compress``, from a file or from a server, to the framing that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qubes_miragevpn.config.model import Compression
from qubes_miragevpn.config.reading.collect import Findings, Settings

COMPRESS: Mapping[str | None, Compression] = MappingProxyType(
    {
        None: Compression.STUB,
        "stub": Compression.STUB,
        "stub-v2": Compression.STUB_V2,
        "lzo": Compression.LZO,
        "lz4": Compression.LZ4,
        "lz4-v2": Compression.LZ4_V2,
    }
)
"""The framing of each ``compress`` (None: without a word); "migrate" has none."""

_COMPRESSING = frozenset({Compression.LZO, Compression.LZ4, Compression.LZ4_V2})


def comp_lzo(how: str | None) -> Compression:
    """The framing of ``comp-lzo``: "yes" and "adaptive" differ in what is sent, not in how it looks."""
    return Compression.STUB_LZO if how == "no" else Compression.LZO


def compression(settings: Settings, findings: Findings) -> tuple[Compression, bool]:
    """The framing of a file, of which the last line counts, and whether compressed packets are let in."""
    old, new, allow = (settings.last(name) for name in ("comp-lzo", "compress", "allow-compression"))
    entry, kind = None, Compression.NONE
    if new is not None and (old is None or new.number > old.number):
        entry, kind = new, COMPRESS[new.args[0]]
    elif old is not None:
        entry, kind = old, comp_lzo(old.args[0])
    decompress = allow is not None and allow.args[0] != "no"
    if allow is not None and allow.args[0] == "yes":
        findings.warn(allow.warning("'allow-compression yes' is taken as 'asym': nothing is compressed on the way out"))
    if entry is not None and kind in _COMPRESSING and not decompress:
        findings.warn(entry.warning("what the other end compresses is dropped; 'allow-compression asym' lets it in"))
    return kind, decompress
