# SPDX-License-Identifier: BSD-2-Clause
"""Argument types: one word of a directive to a value, or `ValueError` saying why not.

Every type names what it expects in words that fit "must be ...". Nothing here looks at more than the word.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, ip_address
from typing import Any

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.config.model import Family, NameType, Proto

MAX_TEXT = 255  # characters of a free-text argument (OpenVPN's OPTION_PARM_SIZE)
MAX_SECONDS = 86400 * 365
MAX_IPV4_PREFIX = 32
MAX_WORDS = 64  # of a program and its arguments


class ArgumentError(MirageError):
    """A directive's words are not what its row wants; whoever asked knows whose words they are."""


@dataclass(frozen=True)
class Kind:
    """How one word is read. `expected` completes "must be"; `parse` raises `ValueError`, whose text is not shown."""

    expected: str
    parse: Callable[[str], Any]


@dataclass(frozen=True)
class Arg:
    """One argument of a row; `label` is its name in messages and in the table of options."""

    label: str
    kind: Kind
    optional: bool = False


@dataclass(frozen=True)
class ProtoWord:
    """A protocol name: transport, address family, and which end of a TCP connection it names ("" either)."""

    proto: Proto
    family: Family
    end: str = ""


GATEWAY_KEYWORDS = frozenset({"vpn_gateway", "net_gateway", "remote_host"})
_INTEGER = re.compile(r"[0-9]{1,12}\Z")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?\Z")
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
_DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,15}\Z")
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){31}\Z")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z")


def integer(low: int, high: int) -> Kind:
    """A decimal number from `low` (>= 0) to `high`."""

    def parse(word: str) -> int:
        if not _INTEGER.match(word) or not low <= int(word) <= high:
            raise ValueError
        return int(word)

    return Kind(f"a number from {low} to {high}", parse)


def seconds(low: int = 0, high: int = MAX_SECONDS) -> Kind:
    """A number of whole seconds."""
    number = integer(low, high)
    return Kind(f"a number of seconds from {low} to {high}", lambda word: float(number.parse(word)))


def choice(*words: str) -> Kind:
    """One of `words`."""

    def parse(word: str) -> str:
        if word not in words:
            raise ValueError
        return word

    quoted = [f"'{word}'" for word in words]
    return Kind(" or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1]))), parse)


def either(keyword: str, value: Any, kind: Kind) -> Kind:
    """`keyword`, which means `value`, or whatever `kind` takes."""
    return Kind(f"{kind.expected}, or '{keyword}'", lambda word: value if word == keyword else kind.parse(word))


def _text(word: str) -> str:
    if not 0 < len(word) <= MAX_TEXT:
        raise ValueError
    return word


def _host(word: str) -> str:
    try:
        address = ip_address(word)
    except ValueError:
        # digits and dots alone are a mistyped address, never a name
        if _HOST.match(word) and not re.fullmatch(r"[0-9.]+", word):
            return word
        raise
    if "%" in word:
        raise ValueError
    return str(address)


def _service(word: str) -> str:
    if not _SERVICE.match(word):
        raise ValueError
    return word


def _device(word: str) -> str:
    if not _DEVICE.match(word) or word in {".", ".."}:
        raise ValueError
    return word


_PROTOS = {
    "udp": ProtoWord(Proto.UDP, Family.ANY),
    "udp4": ProtoWord(Proto.UDP, Family.IPV4),
    "udp6": ProtoWord(Proto.UDP, Family.IPV6),
    "tcp": ProtoWord(Proto.TCP, Family.ANY),
    "tcp4": ProtoWord(Proto.TCP, Family.IPV4),
    "tcp6": ProtoWord(Proto.TCP, Family.IPV6),
} | {
    f"tcp{digit}-{end}": ProtoWord(Proto.TCP, family, end)
    for digit, family in (("", Family.ANY), ("4", Family.IPV4), ("6", Family.IPV6))
    for end in ("client", "server")
}


def _proto(word: str) -> ProtoWord:
    if word not in _PROTOS:
        raise ValueError
    return _PROTOS[word]


def netmask_length(mask: IPv4Address) -> int:
    """The prefix length of a netmask; raises `ValueError` unless its ones are contiguous."""
    inverse = int(mask) ^ 0xFFFFFFFF
    if inverse & (inverse + 1):
        raise ValueError
    return MAX_IPV4_PREFIX - inverse.bit_length()


def _netmask(word: str) -> int:
    return netmask_length(IPv4Address(word))


def _gateway(word: str) -> IPv4Address | str | None:
    """An address, a keyword as it is, or None for "default"."""
    if word == "default":
        return None
    return word if word in GATEWAY_KEYWORDS else IPv4Address(word)


def _ipv6(word: str) -> IPv6Address:
    if "%" in word:
        raise ValueError
    return IPv6Address(word)


def _ipv6_interface(word: str) -> IPv6Interface:
    if "%" in word or not re.search(r"/[0-9]{1,3}\Z", word):
        raise ValueError
    return IPv6Interface(word)


def _ipv6_gateway(word: str) -> IPv6Address | str | None:
    if word == "default":
        return None
    return word if word in GATEWAY_KEYWORDS or word == "net_gateway_ipv6" else _ipv6(word)


def _route_target(word: str) -> IPv4Network | str:
    """A network address with an optional ``/n`` prefix, or a keyword; host bits are the loader's to clear."""
    if word in GATEWAY_KEYWORDS:
        return word
    if "/" in word and not re.search(r"/[0-9]{1,2}\Z", word):
        raise ValueError
    return IPv4Network(word, strict=False)


def _fingerprint(word: str) -> bytes:
    if not _FINGERPRINT.match(word):
        raise ValueError
    return bytes.fromhex(word.replace(":", ""))


def _tls_version(word: str) -> tuple[int, int]:
    if not re.fullmatch(r"1\.[0-9]", word):
        raise ValueError
    return 1, int(word[2])


def _dns_name(word: str) -> str:
    name = word.removesuffix(".")
    if not _DNS_NAME.match(name):
        raise ValueError
    return name


def _command(word: str) -> tuple[str, ...]:
    words = tuple(shlex.split(word))
    if not 0 < len(words) <= MAX_WORDS or not words[0]:
        raise ValueError
    return words


def _key_usage(word: str) -> int:
    if not re.fullmatch(r"(0x)?[0-9A-Fa-f]{1,4}", word):
        raise ValueError
    bits = int(word, 16)
    return bits if bits & 0xFF else bits >> 8  # openvpn takes both orders of the two bytes


def _extended_usage(word: str) -> str:
    known = _EXTENDED_USAGES.get(word)
    if known is None and not re.fullmatch(r"[0-2](\.[0-9]{1,10}){1,20}", word):
        raise ValueError
    return known or word


def _username_field(word: str) -> str:
    name = word.upper() if word.islower() and word not in _MIXED_FIELDS else word
    if name not in USERNAME_FIELDS:
        raise ValueError
    return name


_EXTENDED_USAGES = {
    "TLS Web Server Authentication": "1.3.6.1.5.5.7.3.1", "serverAuth": "1.3.6.1.5.5.7.3.1",
    "TLS Web Client Authentication": "1.3.6.1.5.5.7.3.2", "clientAuth": "1.3.6.1.5.5.7.3.2",
    "Code Signing": "1.3.6.1.5.5.7.3.3", "E-mail Protection": "1.3.6.1.5.5.7.3.4",
    "IPSec End System": "1.3.6.1.5.5.7.3.5", "IPSec Tunnel": "1.3.6.1.5.5.7.3.6", "IPSec User": "1.3.6.1.5.5.7.3.7",
    "Time Stamping": "1.3.6.1.5.5.7.3.8", "OCSP Signing": "1.3.6.1.5.5.7.3.9",
    "Any Extended Key Usage": "2.5.29.37.0",
}  # fmt: skip
_MIXED_FIELDS = frozenset({"emailAddress", "serialNumber"})
USERNAME_FIELDS = frozenset(
    {"C", "ST", "L", "O", "OU", "CN", "DC", "UID", "SN", "GN", "emailAddress", "serialNumber", "title",
     "ext:subjectAltName"}
)  # fmt: skip
SERVICE = Kind("the name of a service in /etc/pam.d", _service)
TEXT = Kind(f"a text of 1 to {MAX_TEXT} characters", _text)
ANY = Kind("a text", str)
CIPHER_LIST = Kind("a list of ciphers", str)
PATH = Kind("the name of a file", _text)
COMMAND = Kind("a program with its arguments, in quotes if there are any", _command)
HOST = Kind("a host name or an address", _host)
PORT = integer(1, 65535)
DEVICE = Kind("an interface name of at most 15 letters, digits, '.', '_' or '-'", _device)
PROTO = Kind("one of " + ", ".join(_PROTOS), _proto)
IPV4 = Kind("an IPv4 address", IPv4Address)
IPV6 = Kind("an IPv6 address", _ipv6)
IPV6_INTERFACE = Kind("an IPv6 address with a prefix length, such as fd00::2/64", _ipv6_interface)
NETMASK = Kind("a netmask with contiguous ones, such as 255.255.255.0", _netmask)
ROUTE_TARGET = Kind("an IPv4 network address", _route_target)
GATEWAY4 = Kind("an IPv4 address, 'vpn_gateway' or 'default'", _gateway)
GATEWAY6 = Kind("an IPv6 address or 'default'", _ipv6_gateway)
FINGERPRINT = Kind("a SHA-256 fingerprint: 32 hexadecimal bytes with ':' between", _fingerprint)
KEY_USAGE = Kind("a hexadecimal number of at most four digits, such as a0", _key_usage)
EXTENDED_USAGE = Kind("'TLS Web Server Authentication' or an object identifier", _extended_usage)
USERNAME_FIELD = Kind("CN, emailAddress, serialNumber, UID, OU, ... or 'ext:subjectAltName'", _username_field)
TLS_VERSION = Kind("1.2 or 1.3", _tls_version)
DNS_NAME = Kind("a domain name of letters, digits, '-' and '_'", _dns_name)
NAME_TYPE = Kind(choice(*(t.value for t in NameType)).expected, NameType)
