# SPDX-License-Identifier: BSD-2-Clause
"""Loading our table with ``nft``, and reading it back.

A load replaces the whole table in one transaction. Then the table is listed as JSON and compared with what was
meant: chains with type, hook, priority and policy, and in each the rules by comment and verdict, in order.
The listing, without counters and handles, is remembered; `intact` compares a later one with it, to the letter.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.qube.firewall.table import TABLE, Chain, FirewallDemand, chains, render, takes_turns

NFT_TIMEOUT = 10.0  # seconds; a load takes a few milliseconds
REFUSED_RULE = "Could not process rule"  # nft's words for what the kernel does not have
MAX_LISTING = 1 << 20  # bytes; the table with sixteen tunnels is a twentieth of that

_log = logging.getLogger("miragevpn.firewall")


class FirewallError(MirageError):
    """The firewall could not be set, or is not what was set."""


class NftTable:
    """Our table in the kernel. Not for concurrent use: `firewall.enforcer` serialises."""

    def __init__(self, nft: str = "nft") -> None:
        self._nft = nft
        self._remembered: Any = None
        self._turns = True  # as far as is known the kernel has nft_numgen

    async def apply(self, demand: FirewallDemand) -> None:
        """Replace the table by what `demand` asks for, and make sure that it is there; raises `FirewallError`."""
        self._remembered = None
        await self._load(demand)
        listing = await self._list()
        if listing is None:
            raise FirewallError("the table vanished as soon as it was loaded")
        problems = differences(chains(demand, turns=self._turns), listing)
        if problems:
            raise FirewallError("the table is not what was loaded: " + "; ".join(problems[:3]))
        self._remembered = listing

    async def _load(self, demand: FirewallDemand) -> None:
        try:
            await self._run("-f", "-", text=render(demand, turns=self._turns))
        except FirewallError as error:
            if not (self._turns and takes_turns(demand) and REFUSED_RULE in str(error)):
                raise
            try:
                await self._run("-f", "-", text=render(demand, turns=False))
            except FirewallError:
                raise error from None  # it was something else
            self._turns = False
            _log.warning("resolvers cannot take turns here (no nft_numgen?): of each family two are asked (%s)", error)

    async def intact(self) -> bool:
        """True if the table is, to the letter, as `apply` left it."""
        return self._remembered is not None and await self._list() == self._remembered

    async def tables(self) -> frozenset[tuple[str, str]]:
        """Every table of the kernel's, as (family, name)."""
        try:
            items = json.loads(await self._run("-j", "list", "tables"))["nftables"]
            return frozenset((str(i["table"]["family"]), str(i["table"]["name"])) for i in items if "table" in i)
        except (ValueError, KeyError, TypeError):
            raise FirewallError("nft's listing is not understood") from None

    async def _list(self) -> list[Any] | None:
        """The table's objects without what changes by itself; None if there is no table."""
        try:
            text = await self._run("-j", "list", "table", "inet", TABLE)
        except FirewallError as error:
            if "No such file or directory" in str(error):
                return None
            raise
        try:
            return [_settled(item) for item in json.loads(text)["nftables"] if "metainfo" not in item]
        except (ValueError, KeyError, TypeError):
            raise FirewallError("nft's listing is not understood") from None

    async def _run(self, *arguments: str, text: str = "") -> bytes:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                self._nft, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, limit=MAX_LISTING
            )
        except OSError as error:
            raise FirewallError(f"cannot run {self._nft}: {error.strerror}") from error
        try:
            output, complaint = await asyncio.wait_for(process.communicate(text.encode()), NFT_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise FirewallError(f"nft did not end within {NFT_TIMEOUT:g} s") from None
        except asyncio.CancelledError:
            # A transaction that was sent is carried out or not: wait, so that what we believe is what is.
            await asyncio.shield(process.wait())
            raise
        if process.returncode != 0:
            raise FirewallError(f"nft: {printable(complaint.split(b'Error: ')[-1].strip())}")
        return output


def _settled(value: Any) -> Any:
    """A listing without counters' values and handles."""
    if isinstance(value, dict):
        return {
            key: ("counter" if key == "counter" else _settled(inner)) for key, inner in value.items() if key != "handle"
        }
    if isinstance(value, list):
        return [_settled(inner) for inner in value]
    return value


def differences(expected: tuple[Chain, ...], listing: list[Any]) -> list[str]:
    """What of `expected` the kernel's table does not hold, and the other way round; empty when all is well."""
    there = {item["chain"]["name"]: item["chain"] for item in listing if "chain" in item}
    problems = [f"chain {name} is not ours" for name in there if name not in {chain.name for chain in expected}]
    for chain in expected:
        found = there.get(chain.name)
        if found is None:
            problems.append(f"chain {chain.name} is missing")
            continue
        meant = {"type": chain.type, "hook": chain.hook, "prio": chain.number, "policy": chain.policy}
        if {key: found.get(key) for key in meant} != meant:
            problems.append(f"chain {chain.name} is of another kind")
        in_chain = [item["rule"] for item in listing if "rule" in item and item["rule"].get("chain") == chain.name]
        rules = [(rule.get("comment"), _verdict(rule)) for rule in in_chain]
        wanted = [(rule.name, _last_word(rule.verdict)) for rule in chain.rules]
        if rules != wanted:
            problems.append(f"chain {chain.name} has other rules")
    return problems


def _verdict(rule: Any) -> str:
    words = [key for statement in rule.get("expr", []) for key in statement]
    return next((word for word in reversed(words) if word in _VERDICTS), "")


def _last_word(verdict: str) -> str:
    if verdict.startswith("meta mark set"):
        return "mangle"
    return next(word for word in verdict.split() if word in _VERDICTS)


_VERDICTS = ("accept", "drop", "reject", "dnat", "mangle")
