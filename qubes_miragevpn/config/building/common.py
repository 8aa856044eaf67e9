# SPDX-License-Identifier: BSD-2-Clause
"""Settings to the models' parts that client and server share: wrap, identity, peer policy, ciphers, timers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from qubes_miragevpn.config.building import material
from qubes_miragevpn.config.building.compression import compression
from qubes_miragevpn.config.building.dataciphers import DataCipherBuilder
from qubes_miragevpn.config.building.trust import ALONE, Surroundings, TrustBuilder
from qubes_miragevpn.config.model import (
    Common,
    ControlWrap,
    NoWrap,
    Proto,
    SizeOf,
    Timers,
    TlsAuth,
    TlsCrypt,
    TlsCryptV2Client,
    TlsCryptV2Server,
    TlsVersions,
)
from qubes_miragevpn.config.reading.collect import Entry, Findings, Settings

DEFAULT_TUN_MTU = 1500
OLDEST_TLS, NEWEST_TLS = (1, 2), (1, 3)

WRAPS = frozenset({"tls-auth", "tls-crypt", "tls-crypt-v2"})
WHERE_TO_CONNECT = frozenset(
    {
        "remote", "proto", "port", "rport", "lport", "local", "nobind", "http-proxy", "http-proxy-option",
        "http-proxy-user-pass", "socks-proxy",
    }
)  # fmt: skip
"""What a <connection> block says about its remote itself rather than about the session with it."""


@dataclass(frozen=True)
class Builder:
    """What building needs: the settings, how to read a file, where to put warnings."""

    settings: Settings
    read_file: material.ReadFile
    findings: Findings
    surroundings: Surroundings = ALONE

    def common(self, *, server: bool, like: Common | None = None) -> Common:
        """Everything that both roles share; certificates and keys as `like` has them. Raises `ConfigError`."""
        filled = self.settings.fields(Common)
        trust = TrustBuilder(self.settings, self.read_file, self.findings, self.surroundings)
        data = DataCipherBuilder(self.settings, self.findings).build()
        framing, decompress = compression(self.settings, self.findings)
        return Common(
            wrap=self._wrap(server=server),
            identity=like.identity if like else trust.identity(),
            peer=like.peer if like else trust.peer(),
            choices=like.choices if like else trust.choices(),
            tls=self._tls_versions(),
            timers=self._timers(server=server),
            data_ciphers=data.offered,
            data_ciphers_fallback=data.fallback,
            digest=data.digest,
            compression=framing,
            decompress=decompress,
            dev=self.settings.value("dev", "tun"),
            ethernet=self._ethernet(),
            **self._sizes(filled.get("tun_mtu", DEFAULT_TUN_MTU)),
            explicit_exit_notify=self._exit_notify(),
            **self._replay(),
            **filled,
        )

    def of_block(self, block: Entry, like: Common) -> Common | None:
        """What a <connection> block makes of `like`; None if it says nothing about that."""
        inner = block.nested
        if inner is None or inner.entries.keys() <= WHERE_TO_CONNECT:
            return None
        outer = self.settings.entries
        if inner.entries.keys() & WRAPS:  # as openvpn: the file's wrap counts for blocks without one of their own
            outer = {name: entries for name, entries in outer.items() if name not in (*WRAPS, "key-direction")}
        merged = Settings({**outer, **inner.entries})
        made = replace(self, settings=merged).common(server=False, like=like)
        return None if made == like else made

    # --- control channel -----------------------------------------------------------------------------

    def _wrap(self, *, server: bool) -> ControlWrap:
        entry = self.settings.last("tls-crypt-v2")
        if entry is None:
            return self._static_wrap()
        if not server:
            found = material.client_key(entry, self.read_file)
            return TlsCryptV2Client(found.key, found.wrapped)
        beside = self._static_wrap()
        return TlsCryptV2Server(
            material.server_key(entry, self.read_file),
            beside=None if isinstance(beside, NoWrap) else beside,
            force_cookie=entry.args[1] == "force-cookie",
            max_age_days=self.settings.value("tls-crypt-v2-max-age", 0),
            verify=self.settings.value("tls-crypt-v2-verify", ()),
        )

    def _static_wrap(self) -> NoWrap | TlsAuth | TlsCrypt:
        settings = self.settings
        if (entry := settings.last("tls-crypt")) is not None:
            return TlsCrypt(material.static_key(entry, self.read_file))
        if (entry := settings.last("tls-auth")) is None:
            return NoWrap()
        direction = entry.args[1] if entry.args[1] is not None else settings.value("key-direction")
        digest = DataCipherBuilder(settings, self.findings).digest()
        return TlsAuth(material.static_key(entry, self.read_file), direction, digest)

    def _tls_versions(self) -> TlsVersions:
        least, most = self.settings.last("tls-version-min"), self.settings.last("tls-version-max")
        minimum, maximum = OLDEST_TLS, None
        if least is not None:
            minimum = least.args[0]
            if minimum < OLDEST_TLS:
                self.findings.warn(least.warning("TLS versions before 1.2 are not used: 1.2 is the oldest"))
            if minimum > NEWEST_TLS and least.args[1] is None:
                raise least.error("there is no such TLS version", "write 'tls-version-min 1.3'")
            minimum = min(max(minimum, OLDEST_TLS), NEWEST_TLS)
        if most is not None and most.args[0] < NEWEST_TLS:
            maximum = most.args[0]
            if maximum < minimum:
                raise most.error(
                    "'tls-version-max' is below the oldest TLS version in use", "write 1.2 or 1.3, or remove the line"
                )
        return TlsVersions(minimum, maximum)

    # --- data channel --------------------------------------------------------------------------------

    def _sizes(self, tun_mtu: int) -> dict[str, Any]:
        """``mssfix`` and ``fragment``; without a size the former follows the latter, or the MTU, as in openvpn 2.6."""
        fragment, mssfix = self.settings.last("fragment"), self.settings.last("mssfix")
        sizes: dict[str, Any] = {}
        if fragment is not None:
            sizes = {"fragment": fragment.args[0], "fragment_of": _size_of(fragment.args[1])}
            proto = self.settings.value("proto")
            others = any(entry.args[2] is not None for entry in self.settings.all("local"))
            if proto is not None and proto.proto is Proto.TCP and not others:
                self.findings.warn(fragment.warning("'fragment' has no effect over TCP, which cuts by itself"))
        if mssfix is not None and mssfix.args[0] == 0:
            return sizes | {"mssfix": 0}
        if mssfix is not None and mssfix.args[0] is not None:
            return sizes | {"mssfix": mssfix.args[0], "mssfix_of": _size_of(mssfix.args[1])}
        if fragment is not None:
            return sizes | {"mssfix": sizes["fragment"]}
        if (packet := self.settings.last("max-packet-size")) is not None:
            return {"mssfix": int(packet.args[0])}
        return {} if tun_mtu == DEFAULT_TUN_MTU else {"mssfix": tun_mtu, "mssfix_of": SizeOf.INNER}

    def _replay(self) -> dict[str, Any]:
        entry = self.settings.last("replay-window")
        if entry is None:
            return {}
        window, late = entry.args
        return {"replay_window": window} if late is None else {"replay_window": window, "replay_time": late}

    def _ethernet(self) -> bool:
        """Whether the tunnel is one of Ethernet frames. Raises `ConfigError` where that cannot be had."""
        kind, dev = self.settings.last("dev-type"), self.settings.last("dev")
        if kind is not None:
            ethernet = bool(kind.args[0] == "tap")
        else:
            ethernet = dev is not None and dev.args[0].startswith("tap")
        entry = kind or dev
        if ethernet and entry is not None and not self.surroundings.around:
            problem = "TAP (Ethernet) tunnels are not supported in a VPN qube, whose firewall knows IP packets only"
            raise entry.error(problem, "write 'dev tun'; the server must use tun as well")
        return ethernet

    def _exit_notify(self) -> int:
        entry = self.settings.last("explicit-exit-notify")
        if entry is None:
            return 0
        return 1 if entry.args[0] is None else int(entry.args[0])

    # --- time ----------------------------------------------------------------------------------------

    def _timers(self, *, server: bool) -> Timers:
        settings = self.settings
        filled: dict[str, Any] = settings.fields(Timers)
        if (reneg := settings.last("reneg-sec")) is not None:
            filled["reneg_sec"], filled["reneg_sec_least"] = reneg.args
        if (idle := settings.last("inactive")) is not None and not server:
            filled["inactive"], filled["inactive_bytes"] = idle.args[0], idle.args[1] or 0
        if (retry := settings.last("connect-retry")) is not None:
            pause, limit = retry.args
            filled["connect_retry"] = pause
            filled["connect_retry_max_pause"] = max(pause, Timers.connect_retry_max_pause if limit is None else limit)
        return Timers(**(filled | self._keepalive(server=server)))

    def _keepalive(self, *, server: bool) -> dict[str, float]:
        settings = self.settings
        if (entry := settings.last("keepalive")) is not None:
            interval, timeout = entry.args
            # a server waits twice as long, so that its client, which was pushed the timeout, notices first
            return {"ping": interval, "ping_restart": 2 * timeout if server and not between_two(settings) else timeout}
        restart, leave = settings.last("ping-restart"), settings.last("ping-exit")
        # As openvpn: between two, without being told, nobody expects pings from the other end.
        usual = 0.0 if server or between_two(settings) else Timers.ping_restart
        found = {"ping": settings.value("ping", 0.0), "ping_restart": usual}
        # openvpn has one such timer and two things to do when it ends: the later line counts
        if leave is not None and (restart is None or leave.number > restart.number):
            return found | {"ping_restart": 0.0, "ping_exit": leave.args[0]}
        return found if restart is None else found | {"ping_restart": restart.args[0]}


def between_two(settings: Settings) -> bool:
    """Whether the other end is an equal: nobody pulls, and nobody serves."""
    roles = ("client", "pull", "server", "server-bridge", "server-ipv6")
    return settings.value("mode") != "server" and not any(settings.has(name) for name in roles)


def _size_of(word: str | None) -> SizeOf:
    return SizeOf(word or "")
