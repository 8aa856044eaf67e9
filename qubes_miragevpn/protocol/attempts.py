# SPDX-License-Identifier: BSD-2-Clause
"""What whoever connects does about the one attempt that it makes at a time, and what it asks for then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import ClientConfig, Remote
from qubes_miragevpn.dataplane.interface import Link
from qubes_miragevpn.protocol.contract import Effect, Level, Notify, OpenTransport
from qubes_miragevpn.protocol.remotes import Lookup, Try

RANDOM_LABEL = 6  # random bytes in front of a name (OpenVPN: 12 hexadecimal digits)


@dataclass(frozen=True)
class Idle:
    """Nothing is wanted."""


@dataclass(frozen=True)
class Pausing:
    """Waiting before the next pass over the remotes."""

    until: float


@dataclass(frozen=True)
class Resolving:
    """The name of `step`'s remote is being looked up."""

    request: int
    step: Lookup


@dataclass(frozen=True)
class Opening:
    """A transport is being opened."""

    link: Link
    step: Try
    deadline: float


def name_to_look_up(remote: Remote, config: ClientConfig, entropy: Callable[[int], bytes]) -> str:
    """The name of `remote`, or of its proxy: with ``remote-random-hostname`` one that nobody has asked for before."""
    if not config.remote_random_hostname or remote.proxy is not None:
        return remote.hop[0]
    return f"{entropy(RANDOM_LABEL).hex()}.{remote.hop[0]}"


def opening(link: Link, step: Try, *, floats: bool = False) -> list[Effect]:
    """Open a transport to the address of `step`, or to the proxy in front of it, and say so."""
    remote, address = step.remote, step.address
    port, proxy = remote.hop[1], remote.proxy
    target = None if proxy is None else (remote.host, remote.port, remote.family)
    by = f" by the proxy {address} port {port}" if proxy is not None else ""
    where = f"{printable(remote.host)} port {remote.port}" if proxy is not None else f"{address} port {port}"
    return [
        Notify(Level.INFO, f"connecting to {where} ({remote.proto.value}){by}"),
        OpenTransport(link, remote.proto, address, port, remote.local, proxy, target, floats),
    ]
