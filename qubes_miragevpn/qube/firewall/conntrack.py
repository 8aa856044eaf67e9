# SPDX-License-Identifier: BSD-2-Clause
"""Forgetting the kernel's flows, so that none of a qube's lives on in another state of the firewall.

One ctnetlink message deletes every entry with a given mark. Our table marks the flows of the transport and those
that a tunnel carries, each with a number of their own; all others have none. An entry that was handed to a
flowtable (Qubes accelerates vif to eth0) goes with it. Needs no tool. Facts: linux/netfilter/nfnetlink_conntrack.h,
nf_conntrack_netlink.c (a delete without a tuple flushes what the mark filter matches).
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from qubes_miragevpn.qube.firewall.nft import FirewallError

_NETLINK_NETFILTER = 12
_CT_DELETE = (1 << 8) | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_NLM_F_REQUEST_ACK = 0x1 | 0x4
_CTA_MARK, _CTA_MARK_MASK = 8, 21
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_TIMEOUT = 2.0


def forget_flows(mark: int = 0) -> None:
    """Delete every flow that bears `mark` (0: none of ours), IPv4 and IPv6; raises `FirewallError`."""
    wanted = struct.pack("=HH", 8, _CTA_MARK) + struct.pack("!I", mark)
    mask = struct.pack("=HH", 8, _CTA_MARK_MASK) + struct.pack("!I", 0xFFFFFFFF)
    body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0) + wanted + mask
    message = _HEADER.pack(_HEADER.size + len(body), _CT_DELETE, _NLM_F_REQUEST_ACK, 1, 0) + body
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as link:
            link.settimeout(_TIMEOUT)
            link.bind((0, 0))
            link.send(message)
            answer = link.recv(4096)
    except OSError as error:
        raise FirewallError(f"cannot forget flows: {error.strerror or error}") from error
    if len(answer) < _HEADER.size + 4:
        raise FirewallError("cannot forget flows: the kernel's answer is too short")
    kind = _HEADER.unpack_from(answer)[1]
    code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
    if kind == _NLMSG_ERROR and code not in (0, errno.ENOENT):
        raise FirewallError(f"cannot forget flows: {os.strerror(code)}")
