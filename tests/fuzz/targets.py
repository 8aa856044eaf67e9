# SPDX-License-Identifier: BSD-2-Clause
"""What is fuzzed: one function for each reader. Only the typed error of its kind may come out of it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from qubes_miragevpn.base.errors import ConfigError, PeerError
from qubes_miragevpn.config.building.trust import Surroundings
from qubes_miragevpn.config.loader import examine_client, examine_server, examine_static, load_client, load_static
from qubes_miragevpn.config.model import ClientConfig
from qubes_miragevpn.config.pushed import apply_update, parse_push
from qubes_miragevpn.config.reading.sources import CommandLine
from qubes_miragevpn.config.render import render
from qubes_miragevpn.protocol.control.tls import make_context
from tests.unit.config.texts import CLIENT, read_file
from tests.unit.config.trust import Made

CORPUS = Path(__file__).parent / "corpus"
MAX_SHOWN = 2000  # characters of a message


def client(data: bytes) -> None:
    """A client's file, with the part after a NUL as words of the command line."""
    text, _, words = data.partition(b"\0")
    options = tuple(words.decode("utf-8", "surrogateescape").split()) if words else ()
    surroundings = Surroundings(unix_time=2_000_000_000, command_line=CommandLine(options, "/"))
    examined = examine_client(text, file="f", read_file=read_file, surroundings=surroundings)
    _judge(examined.warnings, examined.errors)
    if examined.config is not None:
        _again(examined.config)


def server(data: bytes) -> None:
    """A server's file."""
    examined = examine_server(data, file="f", read_file=read_file)
    _judge(examined.warnings, examined.errors)


def static(data: bytes) -> None:
    """A file of the static key mode."""
    examined = examine_static(data, file="f", read_file=read_file)
    _judge(examined.warnings, examined.errors)
    if examined.config is None:
        return
    try:
        text = render(examined.config, show_secrets=True).encode("utf-8", "surrogateescape")
    except ConfigError:
        return
    assert load_static(text, file="f", read_file=read_file).config == examined.config, text


def _judge(warnings: tuple[str, ...], errors: tuple[ConfigError, ...]) -> None:
    for text in (*warnings, *map(str, errors)):
        assert text.isprintable() and len(text) < MAX_SHOWN, text


def _again(config: ClientConfig) -> None:
    """What was loaded can be written and loaded again."""
    try:
        text = render(config, show_secrets=True)
    except ConfigError:
        return  # not all can be said in one file
    encoded = text.encode("utf-8", "surrogateescape")
    assert load_client(encoded, file="f", read_file=read_file).config == config, text


@cache
def _own() -> ClientConfig:
    return load_client(CLIENT.encode(), file="f", read_file=read_file).config


def push(data: bytes) -> None:
    """The options of a PUSH_REPLY."""
    try:
        pulled = parse_push(tuple(data.decode("utf-8", "surrogateescape").split(",")), _own(), None)
    except PeerError as error:
        assert error.reason.isprintable()
        return
    assert all(line.isprintable() for line in pulled.dropped)


def update(data: bytes) -> None:
    """A PUSH_REPLY, and after a line break an update of it."""
    reply, _, change = data.decode("utf-8", "surrogateescape").partition("\n")
    try:
        changed = apply_update(tuple(reply.split(",")), tuple(change.split(",")))
        parse_push(changed.options, _own(), None)
    except PeerError as error:
        assert error.reason.isprintable()


@cache
def _files() -> Mapping[str, bytes]:
    """Honest files of a client; whoever sends a profile sends these as well."""
    authority = Made("authority")
    own = Made("own", authority)
    texts = {
        "ca.crt": authority.pem,
        "list.crl": authority.revoke(7),
        "locked.key": own.key_pem(b"password"),
        "own.crt": own.pem + authority.pem,
        "own.key": own.key_pem(),
        "password": "password\n",
    }
    return {name: text.encode() for name, text in texts.items()} | {"own.p12": own.p12(b"password", authority)}


_LABELS = {"ca.crt": "CERTIFICATE", "list.crl": "X509 CRL", "own.crt": "CERTIFICATE", "own.key": "PRIVATE KEY"}
_IDENTITIES = {"own.p12": "pkcs12 own.p12", "password": "pkcs12 own.p12", "own.key": "cert own.crt\nkey own.key"}


def material(data: bytes) -> None:
    """The first byte says which file of a profile the rest is; what begins as DER does is put into PEM."""
    names = sorted(_files())
    name, content = names[(data[0] if data else 0) % len(names)], data[1:]
    if name in _LABELS and content[:1] == b"\x30":
        label = _LABELS[name]
        content = f"-----BEGIN {label}-----\n{base64.encodebytes(content).decode()}-----END {label}-----\n".encode()
    files = {**_files(), name: content}
    identity = _IDENTITIES.get(name, "cert own.crt\nkey locked.key")
    text = f"client\nremote h\nremote-cert-tls server\nca ca.crt\ncrl-verify list.crl\n{identity}\naskpass password\n"
    examined = examine_client(text.encode(), file="f", read_file=files.__getitem__)
    _judge(examined.warnings, examined.errors)
    if examined.config is None:
        return
    common = examined.config.common
    with suppress(ConfigError):
        make_context(common.identity, common.peer, common.tls, common.choices, server=False)


def _material_seeds() -> list[bytes]:
    """Every file as it should be, PEM as the DER in it."""
    seeds = []
    for number, (name, content) in enumerate(sorted(_files().items())):
        der = base64.b64decode(b"".join(content.split(b"-----")[2].split())) if name in _LABELS else content
        seeds.append(bytes((number,)) + der)
    return seeds


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "client": client,
    "server": server,
    "static": static,
    "push": push,
    "update": update,
    "material": material,
}

SEEDS: Mapping[str, Callable[[], list[bytes]]] = {"material": _material_seeds}
"""Inputs to begin with that are made anew each time: no key is kept in the repository."""
