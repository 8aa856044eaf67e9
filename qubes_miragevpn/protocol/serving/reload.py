# SPDX-License-Identifier: BSD-2-Clause
"""What of a server's configuration may change while clients are connected: a pure comparison of two of them.

What may is in one table and counts for those who come from now on (clients that are connected keep what they were
told; `push-update` changes that). Everything else stays as it is, and is named: sockets, keys, addresses and TLS are
what the present sessions rest on. Lists of revoked certificates and password files are read anew in any case.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from qubes_miragevpn.config.model import LoginRules, Operating, PeerPolicy, ServerConfig, Timers

_LIVE = ("push", "max_clients", "duplicate_cn")
_LIVE_TIMERS = ("ping", "ping_restart")
_LIVE_OPERATING = ("status", "status_version", "metrics")
_LIVE_LOGIN = ("method",)
_APART = ("common", "operating", "login")  # compared field by field
_READ_ANEW = ("crl_pem", "revoked_serials")

_WORDS = {
    "wrap": "tls-auth, tls-crypt, tls-crypt-v2",
    "identity": "cert, key",
    "peer": "ca and what is demanded of certificates",
    "listen": "local, port, proto",
    "beside": "local, port, proto",
    "first_packets": "connect-freq-initial",
    "new_clients": "connect-freq",
    "network": "server",
    "network6": "server-ipv6",
    "bridge": "server-bridge",
    "own": "ifconfig",
    "own6": "ifconfig-ipv6",
    "pool": "ifconfig-pool",
    "pool6": "ifconfig-ipv6-pool",
    "persist": "ifconfig-pool-persist",
    "client_dir": "client-config-dir",
    "routes": "route, route-ipv6",
    "tls": "tls-version-min, tls-version-max",
    "choices": "tls-cipher, tls-groups",
    "timers": "hand-window, reneg-sec and other times",
    "ping": "keepalive",
    "ping_restart": "keepalive",
    "method": "how passwords are judged",
    "login": "how clients log in",
}


@dataclass(frozen=True)
class Reload:
    """The configuration from now on, what it changes, and what differs in the file but stays (option names)."""

    config: ServerConfig
    changed: tuple[str, ...]
    left: tuple[str, ...]


def reload(running: ServerConfig, written: ServerConfig) -> Reload:
    """What becomes of `running` when the operator wrote `written` instead."""
    timers, changed, left = _merge(running.common.timers, written.common.timers, _LIVE_TIMERS)
    operating, more, stays = _merge(running.operating, written.operating, _LIVE_OPERATING)
    changed, left = changed + more, (["timers"] if left else []) + stays
    login = running.login
    if login is not None and written.login is not None:
        login, more, stays = _merge(login, written.login, _LIVE_LOGIN)
        changed, left = changed + more, left + (["login"] if stays else [])
    elif login != written.login:
        left.append("login")
    config, more, stays = _merge(running, written, _LIVE, apart=_APART)
    changed, left = changed + more, left + stays
    common = running.common
    for field in fields(common):
        old, new = getattr(common, field.name), getattr(written.common, field.name)
        if field.name != "timers" and _without_lists(old) != _without_lists(new):
            left.append(field.name)
    config = replace(config, common=replace(common, timers=timers), operating=operating, login=login)
    return Reload(config, _words(changed), _words(left))


def _merge(
    old: Any, new: ServerConfig | Timers | Operating | LoginRules, live: tuple[str, ...], apart: tuple[str, ...] = ()
) -> tuple[Any, list[str], list[str]]:
    """`old` with the `live` fields of `new`; the names of fields that changed, and of those that did not."""
    differs = [each.name for each in fields(new) if each.name not in apart]
    differs = [name for name in differs if getattr(old, name) != getattr(new, name)]
    changed = [name for name in differs if name in live]
    merged = replace(old, **{name: getattr(new, name) for name in changed})
    return merged, changed, [name for name in differs if name not in live]


def _without_lists(value: Any) -> Any:
    """A certificate policy without what is read anew for each handshake."""
    if isinstance(value, PeerPolicy) and value.reread is not None:
        return replace(value, crl_pem=b"", revoked_serials=None)
    return value


def _words(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_WORDS.get(name, name.replace("_", "-")) for name in names))
