# SPDX-License-Identifier: BSD-2-Clause
"""What a plain client changed on this machine, on disk, so that the next start can undo what a crash left behind.

One file for each running client, which holds a lock on it: a file that can be locked belongs to nobody any more. It is
written before each change. Routes and addresses count for this boot and this network namespace only: a client in
another namespace leaves the file for one that can undo it. resolv.conf outlives the boot. The files are ours
(root's, or the user's) and are checked like anybody's all the same: what does not read well is left alone and said.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from qubes_miragevpn.runtime.netlink.netconf import NetAddress, NetRoute, RouteType

STATE = Path("/var/lib/miragevpn-client")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/thread-self/ns/net")
SUFFIX = ".journal"
MAX_SIZE = 4 << 20  # bytes: 2000 routes of 300 bytes, several times
MAX_FILES = 1024  # those of other namespaces, which stay, included

_log = logging.getLogger("miragevpn.host")


@dataclass
class Changes:
    """What is to be undone."""

    boot: str = ""
    namespace: str = ""
    dev: str = ""
    routes: list[tuple[NetRoute | None, NetRoute]] = field(default_factory=list)  # what was there, and ours
    addresses: list[NetAddress] = field(default_factory=list)
    resolved: bool = False  # systemd-resolved was told about `dev`
    resolv_conf: dict[str, Any] | None = None  # path, before, ours

    def note_route(self, before: NetRoute | None, ours: NetRoute) -> None:
        """Ours takes the place of `before`; what was there before the first of ours counts."""
        for number, (first, other) in enumerate(self.routes):
            if other.key == ours.key:
                self.routes[number] = (first, ours)
                return
        self.routes.append((before, ours))

    def forget_route(self, ours: NetRoute) -> None:
        """The route was put back."""
        self.routes = [entry for entry in self.routes if entry[1].key != ours.key]


class Journal:
    """The file of this process. A directory that cannot be written costs the journal, and a warning."""

    def __init__(self, directory: Path | None = None) -> None:
        self.changes = Changes(boot_id(), namespace())
        self._directory = directory or state_directory()
        self._fd = -1
        self._failed = False

    def write(self) -> None:
        """Make the file say what `changes` does."""
        if self._failed:
            return
        try:
            if self._fd < 0:
                self._fd = self._create()
            data = json.dumps(_to_json(self.changes)).encode()
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))
        except OSError as error:
            self._failed = True
            _log.warning("changes are not journalled, so a crash would leave them: %s", error.strerror)

    def close(self) -> None:
        """Remove the file: nothing is left to undo."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._path().unlink()
            os.close(self._fd)
            self._fd = -1
        self.changes = Changes(boot_id(), namespace())

    def _path(self) -> Path:
        return self._directory / f"{os.getpid()}-{id(self):x}{SUFFIX}"

    def _create(self) -> int:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor


def left_behind(directory: Path | None = None) -> Iterator[Changes]:
    """The changes of clients that are gone without undoing them; each file is removed after its turn."""
    folder = directory or state_directory()
    try:
        names = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX))[:MAX_FILES]
    except OSError:
        return
    for path in names:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # its client runs
            changes = _read(descriptor, path)
            if changes is not None:
                if changes.boot == boot_id() and changes.namespace != namespace():
                    continue
                yield changes
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _read(descriptor: int, path: Path) -> Changes | None:
    data = os.pread(descriptor, MAX_SIZE + 1, 0)
    try:
        if len(data) > MAX_SIZE:
            raise ValueError("too large")
        return _from_json(json.loads(data)) if data else None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        _log.warning("%s is damaged (%s); what it tells of is not undone", path, type(error).__name__)
        return None


def boot_id() -> str:
    """What tells this boot from all others; "" where the system does not say."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def namespace() -> str:
    """What tells this network namespace from all others of this boot: ``net:[INODE]``; "" where /proc is missing."""
    try:
        return os.readlink(NAMESPACE)
    except OSError:
        return ""


def state_directory() -> Path:
    """Where journals are: root's, or the user's own."""
    if os.geteuid() == 0:
        return STATE
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "miragevpn-client"


# --- values and JSON ------------------------------------------------------------------------------------


def _to_json(changes: Changes) -> dict[str, Any]:
    return {
        "boot": changes.boot,
        "namespace": changes.namespace,
        "dev": changes.dev,
        "routes": [[before and _route_to_json(before), _route_to_json(ours)] for before, ours in changes.routes],
        "addresses": [
            [each.dev, str(each.interface), str(each.peer) if each.peer else None] for each in changes.addresses
        ],
        "resolved": changes.resolved,
        "resolv_conf": changes.resolv_conf,
    }


def _from_json(read: Any) -> Changes:
    changes = Changes(str(read["boot"]), str(read["namespace"]), str(read["dev"]), resolved=bool(read["resolved"]))
    for before, ours in read["routes"]:
        changes.routes.append((before and _route_from_json(before), _route_from_json(ours)))
    for dev, interface, peer in read["addresses"]:
        changes.addresses.append(NetAddress(str(dev), ip_interface(interface), ip_address(peer) if peer else None))
    conf = read["resolv_conf"]
    if conf is not None:
        before = {str(key): str(value) for key, value in dict(conf["before"]).items() if key in ("link", "text")}
        changes.resolv_conf = {"path": str(conf["path"]), "before": before, "ours": str(conf["ours"])}
    return changes


def _route_to_json(route: NetRoute) -> list[Any]:
    via, source = (None if each is None else str(each) for each in (route.via, route.source))
    kind = int(route.type)
    return [str(route.network), route.dev, via, route.table, route.metric, route.onlink, kind, source, route.proto]


def _route_from_json(read: Any) -> NetRoute:
    network, dev, via, table, metric, onlink, kind, source, proto = read
    return NetRoute(
        ip_network(network),
        None if dev is None else str(dev),
        None if via is None else ip_address(via),
        int(table),
        None if metric is None else int(metric),
        bool(onlink),
        RouteType(kind),
        None if source is None else ip_address(source),
        int(proto),
    )
