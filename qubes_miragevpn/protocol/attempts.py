# SPDX-License-Identifier: BSD-2-Clause
"""The states of a client: what it is doing about the one attempt that it makes at a time."""

from __future__ import annotations

from dataclasses import dataclass

from qubes_miragevpn.dataplane.interface import Link
from qubes_miragevpn.protocol.conversation import Conversation
from qubes_miragevpn.protocol.remotes import Lookup, Try


@dataclass(frozen=True)
class Idle:
    """Nothing is wanted."""


@dataclass(frozen=True)
class Asking:
    """The user is being asked: question number `request`, or (None) for user name and password."""

    request: int | None


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


State = Idle | Asking | Pausing | Resolving | Opening | Conversation
