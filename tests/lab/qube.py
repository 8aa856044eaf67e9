# SPDX-License-Identifier: BSD-2-Clause
"""One "qube": a process that holds a network, mount and host-name namespace of its own.

Nothing of it has a name on the host: no entry in /run/netns, no interface, no mount. When the holder and
what runs in the qube are dead, the kernel takes the rest away; the holder dies with the lab (PDEATHSIG), so
even a lab that was killed leaves no network behind. /etc and /usr are copy-on-write and /run is empty in every qube:
programs are installed and write /etc/resolv.conf or /run/qubes-service there as they would in a real one.
/dev/net/tun has the mode that udev gives it. This clone and its interpreter can be read by every user of a qube.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")

REPOSITORY = Path(__file__).parents[2]
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

# `su` on Debian leaves these out, and nft, ip and sysctl are there.
ENVIRONMENT = {**os.environ, "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"}

# $1 is the qube's name, $2 the folder on the host in which the copy-on-write layers live (a tmpfs of the qube), the
# rest what `hidden` returns: that folder holds nothing in the qube but what is named there.
# /etc and /usr are what a qube gets from its template: it may write there, and the template does not change.
_BOOT = """
set -e
echo "$1" > /proc/sys/kernel/hostname
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=0755 tmpfs "$2"
for top in etc usr; do
    mkdir "$2/$top" "$2/$top-work"
    mount -t overlay overlay -o "lowerdir=/$top,upperdir=$2/$top,workdir=$2/$top-work" "/$top"
done
mkdir "$2/run"
mount --bind "$2/run" /run
rm -f /etc/resolv.conf
: > /etc/resolv.conf
mkdir -p /run/qubes /run/qubes-service
[ ! -d /rw ] || mount -t tmpfs -o mode=0755 tmpfs /rw
ip link set lo up
mknod -m 666 "$2/tun" c 10 200
[ ! -e /dev/net/tun ] || mount --bind "$2/tun" /dev/net/tun
folder=$2 hidden=$3
shift 3
if [ "$hidden" ]; then
    mkdir "$folder/hidden"
    mount --rbind "$hidden" "$folder/hidden"
    mount -t tmpfs -o mode=0755 tmpfs "$hidden"
    for seen; do
        mkdir -p "$seen"
        mount --bind "$folder/hidden${seen#"$hidden"}" "$seen"
    done
    umount -l "$folder/hidden"
fi
echo ready
exec sleep infinity
"""


def hidden() -> list[str]:
    """A folder on the way to this clone or its interpreter that others may not enter, and what is needed of it.

    "" and nothing more where everybody may come along.
    """
    needed = {str(REPOSITORY), *(os.path.realpath(path) for path in (sys.prefix, sys.base_prefix))}
    for path in sorted(needed):
        for folder in reversed(Path(path).parents):
            if not folder.stat().st_mode & 0o001:
                inside = sorted(each for each in needed if Path(each).is_relative_to(folder))
                kept = [
                    one
                    for one in inside
                    if not any(one != other and Path(one).is_relative_to(other) for other in inside)
                ]
                return [str(folder), *kept]
    return [""]


class LabError(Exception):
    """The lab cannot be built or used as asked; the text says what to do."""


class Qube:
    """A namespace with a name; use `boot` to make one and `close` to end everything that runs in it."""

    def __init__(self, name: str, folder: Path, holder: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.folder = folder
        self.holder = holder
        self._net = -1
        self.inode = 0
        self.survivors: list[str] = []
        self._processes: list[subprocess.Popen[Any]] = []

    # --- life ---------------------------------------------------------------------------------------------

    @classmethod
    def start(cls, name: str, folder: Path) -> Qube:
        """Begin to boot; `wait_ready` must follow (several qubes boot side by side)."""
        folder.mkdir()
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--propagation", "private"]
        holder = subprocess.Popen(
            [*command, "sh", "-c", _BOOT, "sh", name, str(folder), *hidden()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=ENVIRONMENT,
        )
        return cls(name, folder, holder)

    def wait_ready(self) -> None:
        """Return when the qube can be used; raises `LabError` with the reason when it cannot be made."""
        assert self.holder.stdout is not None and self.holder.stderr is not None
        if self.holder.stdout.readline() != b"ready\n":
            problem = self.holder.stderr.read().decode(errors="replace").strip()
            raise LabError(f"cannot make the namespaces of {self.name}: {problem or 'is this root, on Linux?'}")
        self._net = os.open(f"/proc/{self.holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.inode = os.fstat(self._net).st_ino

    def pids(self) -> list[int]:
        """Every process whose network namespace is this qube's."""
        return processes_in({self.inode}) if self._net >= 0 else []

    def close(self) -> None:
        """Kill what runs here, and the holder last; returns when all of it is gone."""
        for pid in self.pids():
            if pid != self.holder.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.holder.kill()
        for process in [*self._processes, self.holder]:
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        # The open descriptor keeps the namespace's number from being given to another one until this is known.
        deadline = time.monotonic() + 5
        while (left := self.pids()) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.survivors += [f"process {pid} in {self.name}" for pid in left]
        if self._net >= 0:
            os.close(self._net)
            self._net = -1
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    # --- programs -----------------------------------------------------------------------------------------

    @property
    def enter(self) -> list[str]:
        """The command that enters the qube (in this repository's folder), to be followed by what to run there."""
        target = ["--target", str(self.holder.pid), "--net", "--mount", "--uts"]
        return ["nsenter", *target, "--", "env", f"--chdir={REPOSITORY}"]

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start `command` in the qube; the returned pid is the program's own. It dies with the lab."""
        options.setdefault("start_new_session", True)
        options.setdefault("env", ENVIRONMENT)
        process = subprocess.Popen([*self.enter, "setpriv", "--pdeathsig", "KILL", *command], **options)
        self._processes.append(process)
        return process

    def run(
        self, *command: str, text: str | None = None, check: bool = True, timeout: float = 20
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` in the qube with `text` on its standard input; raises `LabError` if it fails and `check`."""
        done = subprocess.run(
            [*self.enter, *command], input=text, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT
        )
        if check and done.returncode != 0:
            shown = f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()}"
            raise LabError(f"in {self.name}: {shown}" + (f"\n{text}" if text else ""))
        return done

    def ip(self, batch: str) -> None:
        """Run lines of iproute2 commands (without the word ``ip``)."""
        self.run("ip", "-batch", "-", text=batch)

    def ip_family(self, family: str, lines: list[str]) -> None:
        """The same for one family ("-4", "-6"), where the lines themselves do not tell it."""
        if lines:
            self.run("ip", family, "-batch", "-", text="\n".join(lines))

    def nft(self, text: str) -> None:
        """Load nftables text in one transaction."""
        self.run("nft", "-f", "-", text=text)

    # --- from inside this process -------------------------------------------------------------------------

    def inside(self, action: Callable[[], T]) -> T:
        """Call `action` on a thread that is in the qube's network namespace (not in its mounts)."""
        result: list[T] = []
        problem: list[BaseException] = []

        def body() -> None:
            try:
                if _libc.setns(self._net, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns to {self.name}")
                result.append(action())
            except BaseException as error:
                problem.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if problem:
            raise problem[0]
        return result[0]

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket:
        """A socket that lives in the qube and stays there."""
        return self.inside(lambda: socket.socket(family, kind, proto))

    def sysctl(self, settings: dict[str, str | int]) -> None:
        """Write values below /proc/sys/net; names have slashes (``ipv4/ip_forward``)."""

        def write() -> None:
            for name, value in settings.items():
                Path("/proc/sys/net", name).write_text(f"{value}\n")

        self.inside(write)

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file as the qube sees it (use it for /etc and /run)."""
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)

    def path(self, path: str) -> Path:
        """The qube's `path`, reachable from the host."""
        return Path(f"/proc/{self.holder.pid}/root{path}")


def _all_pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _net_inode(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return -1


def processes_in(inodes: set[int]) -> list[int]:
    """Processes in these network namespaces; somebody must hold them, or their numbers are given away again."""
    return [pid for pid in _all_pids() if _net_inode(pid) in inodes]


def drain(stream: IO[bytes], into: Callable[[bytes], None]) -> threading.Thread:
    """Read a program's output line by line on a thread, so that it never blocks on a full pipe."""

    def body() -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                into(line)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread
