# SPDX-License-Identifier: BSD-2-Clause
"""The qrexec double itself: it finds, runs and refuses services as the agent does."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.lab import qrexec
from tests.lab.network import Lab
from tests.lab.qube import Qube

SHOW = """#!/bin/sh
read -r line
printf '{"user": "%s", "count": %d, "argument": "%s", "full": "%s", "source": "%s", "input": "%s", "home": "%s"}' \\
    "$(id -un)" $# "$QREXEC_SERVICE_ARGUMENT" "$QREXEC_SERVICE_FULL_NAME" "$QREXEC_REMOTE_DOMAIN" "$line" "$HOME"
echo trouble >&2
exit 9
"""


@pytest.fixture(scope="module")
def vpn() -> Iterator[Qube]:
    """sys-vpn with some services."""
    with Lab(None, appvms=()) as lab:
        lab.vpn.write("/etc/qubes-rpc/lab.Show", SHOW, 0o755)
        lab.vpn.write("/etc/qubes-rpc/lab.Root", SHOW, 0o755)
        lab.vpn.write("/etc/qubes-rpc/lab.Show+special", "#!/bin/sh\necho special\n", 0o755)
        lab.vpn.write("/run/qubes-rpc/lab.Over", "#!/bin/sh\necho run\n", 0o755)
        lab.vpn.write("/etc/qubes-rpc/lab.Over", "#!/bin/sh\necho etc\n", 0o755)
        lab.vpn.write("/etc/qubes/rpc-config/lab.Root", "force-user='root'\n")
        yield lab.vpn


def test_an_executable_service(vpn: Qube) -> None:
    """User, arguments, environment, input, standard error and exit code are the agent's."""
    reply = qrexec.call(vpn, "lab.Show", "abc", source="work", data=b"hello\n")
    expected = {
        "user": "user",
        "count": 1,
        "argument": "abc",
        "full": "lab.Show+abc",
        "source": "work",
        "input": "hello",
        "home": "/home/user",
    }
    assert (reply.code, reply.complaint, json.loads(reply.output)) == (9, "trouble\n", expected)


def test_no_argument_and_force_user(vpn: Qube) -> None:
    """Without an argument there is no argv[1], and the full name ends in "+"."""
    shown = json.loads(qrexec.call(vpn, "lab.Root").output)
    assert (shown["user"], shown["count"], shown["argument"], shown["full"]) == ("root", 0, "", "lab.Root+")


def test_lookup(vpn: Qube) -> None:
    """The service with its argument goes before the one without, /run before /etc; what is missing is 127."""
    assert qrexec.call(vpn, "lab.Show", "special").output == "special\n"
    assert qrexec.call(vpn, "lab.Over").output == "run\n"
    assert qrexec.call(vpn, "lab.Missing").code == qrexec.NOT_FOUND


def test_odd_bytes_arrive_as_underscores(vpn: Qube) -> None:
    """Neither a slash nor a space nor a quote ever reaches a service."""
    assert json.loads(qrexec.call(vpn, "lab.Show", "a/b;c 'd").output)["argument"] == "a_b_c__d"


def test_a_socket_service(vpn: Qube) -> None:
    """The descriptor, a NUL, then the input; the answer comes back with code 0."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(vpn.path("/run/lab.sock")))
        listener.listen()
        vpn.path("/etc/qubes-rpc/lab.Socket").symlink_to("/run/lab.sock")

        def serve() -> None:
            connection, _peer = listener.accept()
            with connection:
                data = b""
                while piece := connection.recv(4096):
                    data += piece
                connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        reply = qrexec.call(vpn, "lab.Socket", "x", data=b"data\n")
        thread.join()
    assert (reply.code, reply.output) == (0, "lab.Socket+x work\0data\n")
    assert qrexec.call(vpn, "lab.Socket").code == qrexec.PROBLEM
