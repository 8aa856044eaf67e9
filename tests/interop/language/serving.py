# SPDX-License-Identifier: BSD-2-Clause
"""What a server's file may say of addresses, in every form: texts for both programs to judge."""

from __future__ import annotations

from tests.interop.language.judge import SERVER

BARE = "".join(line + "\n" for line in SERVER.splitlines() if not line.startswith(("server ", "dev ", "topology ")))
_LONG = "mode server\ntls-server\n"
_TUN, _TAP = "dev tun\ntopology subnet\n", "dev tap\n"
_BRIDGE = "server-bridge 10.8.0.4 255.255.255.0 10.8.0.128 10.8.0.254\n"
_SERVER, _SERVER6 = "server 10.8.0.0 255.255.255.0\n", "server-ipv6 fd42:8::/64\n"
_OWN, _OWN6 = "ifconfig 10.8.0.1 255.255.255.0\n", "ifconfig-ipv6 fd42:8::1/64 fd42:8::2\n"
_POOL, _POOL6 = "ifconfig-pool 10.8.0.2 10.8.0.9 255.255.255.0\n", "ifconfig-ipv6-pool fd42:8::100/64\n"

ADDRESSES: tuple[str, ...] = (
    _TAP + _BRIDGE,
    _TAP + "server-bridge\n",
    _TAP + "server-bridge nogw\n",
    _TUN + _BRIDGE,
    _TAP + "server-bridge 10.8.0.4\n",
    _TAP + "server-bridge 10.8.0.4 255.255.255.0 10.9.0.128 10.9.0.254\n",
    _TAP + "server-bridge 10.8.0.4 255.255.255.0 10.8.0.254 10.8.0.128\n",
    _TAP + "server-bridge 10.8.0.130 255.255.255.0 10.8.0.128 10.8.0.254\n",
    _TAP + _BRIDGE + _SERVER,
    _TAP + _BRIDGE + _POOL,
    _TAP + _BRIDGE + _SERVER6,
    _TAP + _BRIDGE + _OWN,
    _TAP + _SERVER,
    _TAP + "server 10.8.0.0 255.255.255.252\n",
    _TUN + "server 10.8.0.0 255.255.255.252\n",
    _TAP + "topology net30\n" + _SERVER,
    _TAP + "server 10.8.0.0 255.255.255.0 nopool\n",
    _TAP + _SERVER + "route 10.5.0.0 255.255.0.0\n",
    _TAP + _LONG,
    _TAP + _LONG + _POOL,
    _TAP + _LONG + "ifconfig-pool 10.8.0.2 10.8.0.9\n",
    _TUN + _LONG,
    _TUN + _LONG + _OWN,
    _TUN + _LONG + _OWN + _POOL,
    _TUN + _LONG + _POOL,
    _TUN + _LONG + "ifconfig 10.8.0.5 255.255.255.0\n" + _POOL,
    "dev tun\ntopology net30\nifconfig 10.8.0.1 10.8.0.2\nifconfig-pool 10.8.0.4 10.8.0.251\n" + _LONG,
    _TUN + "tls-server\n" + _OWN + _POOL,
    _TUN + _SERVER + _OWN,
    _TUN + _SERVER + _POOL,
    _TUN + _SERVER6,
    _TUN + _SERVER6 + _OWN6,
    _TUN + _SERVER6 + _POOL6,
    _TUN + _LONG + _OWN6 + _POOL6,
    _TUN + _LONG + _POOL6,
    _TUN + _LONG + "ifconfig-ipv6 fd42:8::1/48 fd42:8::2\nifconfig-ipv6-pool fd42:8::100/48\n",
    _TUN + _LONG + _OWN6 + "ifconfig-ipv6-pool fd42:9::100/64\n",
    _TUN + _LONG + "ifconfig-ipv6 fd42:8::1/64\n" + _POOL6,
    _TUN + _SERVER + _OWN6 + _POOL6,
    _TUN + "server 10.8.0.0 255.255.255.0 nopool\n" + _SERVER6,
)
