# SPDX-License-Identifier: BSD-2-Clause
"""Looking a remote's name up with the system's resolver, without holding the event loop.

getaddrinfo(3) cannot be interrupted, so each look-up has a thread of its own that nobody waits for once its time is
over; a bound on those threads keeps a resolver that hangs from piling them up. Answers are bounded in number.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from qubes_miragevpn.config.model import Family

TIMEOUT = 15.0  # seconds: resolv.conf(5)'s three servers at five seconds each
MAX_ADDRESSES = 16  # a pass over the remotes must end; the largest providers give about ten
MAX_THREADS = 8

Address = IPv4Address | IPv6Address
Lookup = Callable[[str, int], list[str]]

_running = threading.BoundedSemaphore(MAX_THREADS)


async def resolve(
    host: str, family: Family, *, timeout: float = TIMEOUT, lookup: Lookup | None = None
) -> list[Address]:
    """Return the addresses of `host` that `family` allows, in the resolver's order (RFC 6724).

    An address literal is returned as it is. Raises OSError if there is none, or none in time. `lookup(host,
    address family)` is what asks, for tests; it may block.
    """
    literal = _literal(host)
    found = [literal] if literal else await _ask(host, family, timeout, lookup or _getaddrinfo)
    wanted = {Family.ANY: (4, 6), Family.IPV4: (4,), Family.IPV6: (6,)}[family]
    usable = [address for address in dict.fromkeys(found) if address.version in wanted]
    if not usable:
        raise OSError(errno.EADDRNOTAVAIL, f"{host} has no {'' if family is Family.ANY else family.value + ' '}address")
    return usable[:MAX_ADDRESSES]


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


async def _ask(host: str, family: Family, timeout: float, lookup: Lookup) -> list[Address]:
    if not _running.acquire(blocking=False):
        raise OSError(errno.EAGAIN, "the system's resolver does not answer earlier questions")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()
    number = {Family.ANY: socket.AF_UNSPEC, Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}[family]

    def give(texts: list[str] | None, error: Exception | None) -> None:
        if answer.done():
            return
        if texts is None:
            answer.set_exception(error or OSError("no answer"))
        else:
            answer.set_result(texts)

    def work() -> None:
        texts, failure = None, None
        try:
            texts = lookup(host, number)
        except Exception as error:
            failure = error
        finally:
            _running.release()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
            loop.call_soon_threadsafe(give, texts, failure)

    try:
        threading.Thread(target=work, name="resolver", daemon=True).start()
    except RuntimeError:
        _running.release()
        raise OSError(errno.EAGAIN, "no thread can be started") from None
    try:
        async with asyncio.timeout(timeout):
            texts = await answer
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, f"the resolver did not answer within {timeout:g} s") from None
    except UnicodeError:
        raise OSError(errno.EINVAL, "not a host name") from None
    return [address for address in map(_literal, texts) if address is not None]


def _getaddrinfo(host: str, family: int) -> list[str]:
    answers = socket.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM)
    return [str(answer[4][0]) for answer in answers if "%" not in str(answer[4][0])]  # no link-local scopes
