# SPDX-License-Identifier: BSD-2-Clause
"""Rows that are accepted and change nothing: obsolete options, other systems' options, the process's surroundings.

Nothing is here that would make a connection safer: that is refused instead (`refused`).
"""

from __future__ import annotations

from dataclasses import replace

from qubes_miragevpn.config.rows.row import without_effect

_SCRIPTS = "scripts are never run; addresses, routes and DNS are set by the program itself"
_PROCESS = "the process and its rights are the service manager's"
_OTHER_SYSTEM = "it concerns another operating system"
_LOG = "the log goes to standard error or to the journal"

_SILENT = (
    ("persist-key", "keys stay in memory until the program ends"),
    ("persist-remote-ip", "names are looked up again on every pass over the remotes"),
    ("persist-local-ip", "the local address is the one that the file names, or the system's choice each time"),
    ("script-security", "scripts are never run"),
    ("mute", "repeated log lines are limited anyway"),
    ("mute-replay-warnings", "replayed packets are counted, not logged one by one"),
    ("suppress-timestamps", _LOG),
    ("machine-readable-output", _LOG),
    ("errors-to-stderr", _LOG),
    ("ifconfig-nowarn", "addresses are checked in any case"),
    ("tun-ipv6", "every tunnel can carry IPv6"),
    ("ping-timer-rem", "the timer runs from the connection on"),
    ("route-delay", "routes are set as soon as the interface is up"),
    ("ip-win32", _OTHER_SYSTEM),
    ("route-method", _OTHER_SYSTEM),
    ("tap-sleep", _OTHER_SYSTEM),
    ("dhcp-renew", _OTHER_SYSTEM),
    ("dhcp-release", _OTHER_SYSTEM),
    ("register-dns", _OTHER_SYSTEM),
    ("windows-driver", _OTHER_SYSTEM),
    ("service", _OTHER_SYSTEM),
    ("pause-exit", _OTHER_SYSTEM),
    ("show-net-up", _OTHER_SYSTEM),
    ("allow-nonadmin", _OTHER_SYSTEM),
    ("disable-dco", "kernel offload is not used"),
    ("ignore-unknown-option", "the names it lists may be unknown to this program"),
    ("comp-noadapt", "nothing is ever compressed"),
    ("setenv-safe", "scripts are never run"),
    ("preresolve", "names are looked up before each attempt"),
    ("keying-material-exporter", "it exports a secret to scripts, which are never run"),
    ("echo", "it is a note to a graphical client"),
    ("parameter", "it is a note to a graphical client"),
)

_WARNED = (
    ("fast-io", "it tunes openvpn's own event loop"),
    ("tun-mtu-extra", "frames always have that room"),
    ("link-mtu", "the size of packets follows from tun-mtu and mssfix"),
    ("mtu-disc", "path MTU discovery is left to the system"),
    ("mtu-test", "packet sizes are not probed"),
    ("mtu-dynamic", "the size of packets follows from tun-mtu and mssfix"),
    ("keysize", "the cipher's name fixes the key size"),
    ("ncp-disable", "the cipher is always negotiated"),
    ("tls-exit", "after a failed handshake the next remote is tried"),
    ("shaper", "bandwidth is not limited"),
    ("passtos", "the TOS field is not copied"),
    ("txqueuelen", "the interface keeps the system's queue length"),
    ("user", _PROCESS),
    ("group", _PROCESS),
    ("multihome", "the system chooses the address that answers leave from"),
    ("nice", _PROCESS),
    ("daemon", _PROCESS),
    ("syslog", _LOG),
    ("log", _LOG),
    ("log-append", _LOG),
    ("writepid", _PROCESS),
    ("chroot", _PROCESS),
    ("mlock", _PROCESS),
    ("max-routes", "the limit is fixed"),
    ("allow-pull-fqdn", "routes are networks, never names"),
    ("up", _SCRIPTS),
    ("up-delay", _SCRIPTS),
    ("up-restart", _SCRIPTS),
    ("down", _SCRIPTS),
    ("down-pre", _SCRIPTS),
    ("ipchange", _SCRIPTS),
    ("route-up", _SCRIPTS),
    ("route-pre-down", _SCRIPTS),
    ("dns-updown", _SCRIPTS),
    ("iproute", _SCRIPTS),
    ("client-nat", "addresses are not translated"),
    ("lladdr", "the kernel chooses the address of a TAP"),
    ("dev-node", "the TUN device is /dev/net/tun"),
    ("block-outside-dns", "it concerns another operating system; in a VPN qube DNS goes through the tunnel or nowhere"),
    ("allow-recursive-routing", "packets to the server never enter the tunnel"),
    ("compat-mode", "old protocol versions are not imitated"),
    ("socket-flags", "sockets are set up by the program itself"),
    ("remap-usr1", "signals mean what `miragevpn client --help` says"),
    ("win-sys", _OTHER_SYSTEM),
)

_PUSHED = frozenset(
    {
        "persist-key",
        "route-delay",
        "ip-win32",
        "route-method",
        "tap-sleep",
        "register-dns",
        "ping-timer-rem",
        "comp-noadapt",
        "setenv-safe",
        "echo",
        "parameter",
        "mute",
        "shaper",
        "socket-flags",
        "max-routes",
        "lladdr",
        "client-nat",
        "block-outside-dns",
        "tun-ipv6",
    }
)
"""Those that a server may push without anybody being surprised."""

ROWS = (
    *(
        replace(row, pushed=row.client) if row.name in _PUSHED else row
        for row in (
            *(without_effect(name, reason, warn=False) for name, reason in _SILENT),
            *(without_effect(name, reason) for name, reason in _WARNED),
        )
    ),
)
