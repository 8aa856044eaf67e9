# SPDX-License-Identifier: BSD-2-Clause
"""Opening a TUN device: raw IP packets at a non-blocking descriptor.

Flags are IFF_TUN | IFF_NO_PI (linux/if_tun.h, Documentation/networking/tuntap.rst), and
IFF_VNET_HDR for a data plane that reads and writes virtio-net headers. python-pytun does it where it is installed;
otherwise the same ioctl is made here, with the same result. A missing device node or privilege is a `SystemRefused`
that says what to do. The interface vanishes when its descriptor is closed; addresses, MTU and link state are
`runtime.netlink.netconf`'s.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from types import ModuleType
from typing import Any

from qubes_miragevpn.base.errors import MisuseError, SystemRefused

try:
    import pytun as _pytun
except ImportError:
    _pytun = None
pytun: ModuleType | None = _pytun

DEVICE = "/dev/net/tun"
IFNAMSIZ = 16  # with the terminating NUL
_TUNSETIFF = 0x400454CA
_SIOCGIFHWADDR = 0x8927
_IFF_TUN = 0x0001
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFREQ = struct.Struct(f"{IFNAMSIZ}sH22x")  # struct ifreq: name, flags, rest of the union


QUEUE = 1000
"""Packets that wait in the kernel while the data plane is busy."""

QUEUE_OF_LARGE = 32
"""The same where one of them may be a row of segments of up to 64 KiB: the native data plane fits it to their size."""


class Tun:
    """An open TUN device; `fd` is non-blocking, `name` what the kernel calls the interface.

    `queue` is how many packets the interface is to let wait.
    """

    def __init__(self, fd: int, name: str, device: Any = None, queue: int = QUEUE) -> None:
        self.fd = fd
        self.name = name
        self.queue = queue
        self._device = device  # python-pytun's object, which owns the descriptor

    def close(self) -> None:
        """Close the descriptor; the interface and its routes vanish. A second call does nothing."""
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        if self._device is not None:
            self._device.close()
        else:
            os.close(fd)


def open_tun(name: str, *, headers: bool = False, ethernet: bool = False) -> Tun:
    """Create the interface `name` (or attach to a persistent one of that name) and open it.

    `headers`: every packet is preceded by a virtio-net header, where the kernel has those; whoever uses the descriptor
    can ask for it. `ethernet`: a TAP, which carries frames.
    Raises `SystemRefused` if the machine does not let us.
    """
    if not 0 < len(name.encode()) < IFNAMSIZ or "/" in name or "\0" in name:
        raise MisuseError(f"{name!r} cannot be the name of an interface")
    flags = (_IFF_TAP if ethernet else _IFF_TUN) | _IFF_NO_PI
    try:
        if headers:
            with contextlib.suppress(OSError):
                tun = _open(name, flags | _IFF_VNET_HDR)
                tun.queue = QUEUE_OF_LARGE
                return tun
        return _open(name, flags)
    except OSError as refusal:
        raise _explained(name, refusal) from None


def _open(name: str, flags: int) -> Tun:
    return _open_by_pytun(pytun, name, flags) if pytun is not None else _open_by_ioctl(name, flags)


def hardware_address(fd: int) -> bytes:
    """The Ethernet address of the TAP that is open as `fd`. Raises `OSError`."""
    kind_and_address = fcntl.ioctl(fd, _SIOCGIFHWADDR, _IFREQ.pack(b"", 0))[IFNAMSIZ:]
    return kind_and_address[2:8]


def _open_by_pytun(module: ModuleType, name: str, flags: int) -> Tun:
    device = module.TunTapDevice(name=name, flags=flags)  # its Error is an OSError
    os.set_blocking(device.fileno(), False)
    os.set_inheritable(device.fileno(), False)
    return Tun(device.fileno(), device.name, device)


def _open_by_ioctl(name: str, flags: int) -> Tun:
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        answer = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
    except OSError:
        os.close(fd)
        raise
    return Tun(fd, _IFREQ.unpack(answer)[0].rstrip(b"\0").decode())


def _explained(name: str, refusal: OSError) -> SystemRefused:
    """Return what `refusal` means and what helps."""
    if refusal.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return SystemRefused(f"{DEVICE} does not exist", "load the kernel module (modprobe tun)")
    if refusal.errno in (errno.EPERM, errno.EACCES):
        return SystemRefused(f"no permission to create {name}", "run as root, or with CAP_NET_ADMIN")
    if refusal.errno == errno.EBUSY:
        return SystemRefused(f"{name} is in use", "stop the other program that holds it")
    if refusal.errno == errno.EINVAL:
        return SystemRefused(f"{name} exists and is of another kind", "remove that interface, or use another name")
    return SystemRefused(f"cannot open {name}: {os.strerror(refusal.errno or errno.EIO)}", f"look at {DEVICE}")
