# SPDX-License-Identifier: BSD-2-Clause
"""Which framing ``comp-lzo`` and ``compress`` mean, in a file and pushed."""

from __future__ import annotations

import pytest

from qubes_miragevpn.config.model import Compression
from qubes_miragevpn.config.pushed.reply import parse_push
from tests.unit.config.texts import client, server

LINES = [
    ("comp-lzo", Compression.LZO),
    ("comp-lzo yes", Compression.LZO),
    ("comp-lzo adaptive", Compression.LZO),
    ("comp-lzo no", Compression.STUB_LZO),
    ("compress", Compression.STUB),
    ("compress stub", Compression.STUB),
    ("compress stub-v2", Compression.STUB_V2),
    ("compress lzo", Compression.LZO),
    ("compress lz4", Compression.LZ4),
    ("compress lz4-v2", Compression.LZ4_V2),
]


@pytest.mark.parametrize(("line", "kind"), [("", Compression.NONE), ("compress migrate", Compression.NONE), *LINES])
def test_framing_of_a_file(line: str, kind: Compression) -> None:
    for config in (client(line).config, server(line).config):
        assert (config.common.compression, config.common.decompress) == (kind, False)


@pytest.mark.parametrize(("line", "kind"), LINES)
def test_framing_of_a_push(line: str, kind: Compression) -> None:
    config = client("compress stub-v2").config
    assert parse_push((line, "comp-noadapt"), config, None).compression is kind
    assert parse_push((), config, None).compression is None


def test_the_last_line_counts() -> None:
    assert client("comp-lzo\ncompress stub-v2").config.common.compression is Compression.STUB_V2
    assert client("compress stub-v2\ncomp-lzo no").config.common.compression is Compression.STUB_LZO


@pytest.mark.parametrize(("word", "lets_in"), [("no", False), ("asym", True), ("yes", True)])
def test_compressed_packets_are_let_in_on_demand(word: str, lets_in: bool) -> None:
    loaded = client(f"comp-lzo\nallow-compression {word}")
    assert loaded.config.common.decompress is lets_in
    assert len(loaded.warnings) == (0 if word == "asym" else 1)
