# SPDX-License-Identifier: BSD-2-Clause
"""Models to text and back, for every model that the generators make."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.building.trust import Surroundings
from qubes_miragevpn.config.loader import load_client, load_point_client, load_point_server, load_server, load_static
from qubes_miragevpn.config.model import (
    ClientConfig,
    Common,
    Dns,
    PointClient,
    PointServer,
    ServerConfig,
    StaticConfig,
    Timers,
)
from qubes_miragevpn.config.quoting import quote
from qubes_miragevpn.config.reading.lexer import split_words
from qubes_miragevpn.config.reading.sources import nothing_to_read
from qubes_miragevpn.config.render import HIDDEN, Model, render
from tests.unit.config import models
from tests.unit.config.texts import CLIENT, KEY, STATIC_KEY_FILE, client

SEEDS = range(60)
# There is no text for these, or a text for them alone makes no sense.
UNTOLD = {"revoked_serials", "key"}


LOADERS: dict[type, Callable[..., Any]] = {
    ClientConfig: load_client, ServerConfig: load_server, StaticConfig: load_static,
    PointClient: load_point_client, PointServer: load_point_server,
}  # fmt: skip


def parse(text: str, config: Model) -> Any:
    load = LOADERS[type(config)]
    shared = config.client if isinstance(config, StaticConfig | PointClient | PointServer) else config
    plain = shared.around if isinstance(shared, ClientConfig) else shared.common.ethernet
    surroundings = Surroundings(around=plain)
    content = text.encode("utf-8", "surrogateescape")
    return load(content, file="f", read_file=nothing_to_read, surroundings=surroundings).config


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("role", ["client", "server", "static", "point_client", "point_server"])
def test_round_trip(role: str, seed: int) -> None:
    config = getattr(models, role)(random.Random(seed))
    text = render(config, show_secrets=True)
    assert parse(text, config) == config, text
    assert render(parse(text, config), show_secrets=True) == text


def values(model: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        yield f"{type(model).__name__}.{field.name}", value
        for inner in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
                yield from values(inner)


def test_the_generators_leave_no_field_out() -> None:
    """A field that never changes is one whose rendering nobody tests: teach tests/unit/config/models.py about it."""
    seen: dict[str, set[str]] = {}
    for seed in SEEDS:
        for make in (models.client, models.server, models.static, models.point_client, models.point_server):
            config = make(random.Random(seed))
            for name, value in values(config):
                seen.setdefault(name, set()).add(repr(value))
    for model in (ClientConfig, ServerConfig, StaticConfig, PointClient, PointServer, Common, Timers, Dns):
        for field in dataclasses.fields(model):
            if field.name not in UNTOLD and field.name != "network":
                assert len(seen[f"{model.__name__}.{field.name}"]) > 1, f"{model.__name__}.{field.name}"


@pytest.mark.parametrize("seed", range(10))
def test_secrets_are_hidden_unless_asked_for(seed: int) -> None:
    config = models.client(random.Random(seed))
    text = render(config)
    for secret in (KEY.splitlines()[1], "pass # word", "000102030405"):
        assert secret not in text
    assert STATIC_KEY_FILE.splitlines()[5] not in render(models.static(random.Random(seed)))
    if config.common.identity is not None:
        assert f"<key>\n{HIDDEN}\n</key>" in text and "BEGIN CERTIFICATE" in text


@pytest.mark.parametrize("word", models.TEXTS)
def test_a_quoted_word_is_read_back(word: str) -> None:
    assert split_words(quote(word)) == (word,)


def test_what_has_no_inline_form_is_refused() -> None:
    config = client(base=CLIENT).config
    peer = dataclasses.replace(config.common.peer, revoked_serials=frozenset({1}))
    with pytest.raises(ConfigError, match="a directory of revoked serial numbers"):
        render(dataclasses.replace(config, common=dataclasses.replace(config.common, peer=peer)))
