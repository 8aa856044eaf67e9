# SPDX-License-Identifier: BSD-2-Clause
"""The matrix: our client and our server, each against openvpn 2.6, over every transport, protection, TLS version,
data cipher and way to derive keys, with each data plane.

`TABLE` is the whole of it; `test_matrix.py` runs it row by row and holds that every pair of two properties occurs, in
both directions. `python -m tests.interop.matrix` (root; `make matrix`) runs it too and prints it with verdicts.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from qubes_miragevpn.runtime.backend import NATIVE, NATIVE_MODULE, REFERENCE, VARIABLE
from tests.interop import pki as pki_module
from tests.interop.bench import Bench
from tests.interop.netns import ENVIRONMENT, Wire
from tests.interop.peers import OPENVPN, OURS, Case, Peer
from tests.interop.pki import Pki

TABLE = """
    ours    over  protection           TLS  data cipher        digest  keys
    client  udp4  none                 1.2  AES-256-GCM        -       exporter
    client  udp4  tls-auth             1.2  AES-256-GCM        SHA1    prf
    client  udp4  tls-auth-swapped     1.3  CHACHA20-POLY1305  SHA256  exporter
    client  udp4  tls-auth-both        1.3  AES-192-GCM        SHA512  prf
    client  udp4  tls-crypt            1.3  AES-256-CBC        SHA256  prf
    client  udp4  tls-crypt-v2         1.2  AES-192-GCM        -       prf
    client  udp4  tls-crypt-v2-beside  1.3  AES-128-GCM        -       prf
    client  udp6  none                 1.3  AES-128-GCM        -       prf
    client  udp6  tls-auth             1.2  CHACHA20-POLY1305  SHA1    prf
    client  udp6  tls-auth-swapped     1.2  AES-128-GCM        SHA256  exporter
    client  udp6  tls-auth-both        1.2  AES-256-CBC        SHA256  exporter
    client  udp6  tls-crypt            1.2  AES-256-GCM        -       prf
    client  udp6  tls-crypt-v2         1.3  AES-256-GCM        -       exporter
    client  udp6  tls-crypt-v2-beside  1.2  AES-192-GCM        -       exporter
    client  tcp4  none                 1.2  AES-256-CBC        SHA256  prf
    client  tcp4  tls-auth             1.3  AES-192-GCM        SHA512  exporter
    client  tcp4  tls-auth-swapped     1.2  AES-192-GCM        SHA1    prf
    client  tcp4  tls-auth-both        1.3  AES-128-GCM        SHA256  exporter
    client  tcp4  tls-crypt            1.2  AES-128-GCM        -       exporter
    client  tcp4  tls-crypt-v2         1.3  CHACHA20-POLY1305  -       exporter
    client  tcp4  tls-crypt-v2-beside  1.3  AES-256-GCM        -       prf
    client  tcp6  tls-crypt            1.3  AES-256-GCM        -       exporter
    server  udp4  none                 1.2  AES-256-CBC        SHA256  prf
    server  udp4  tls-auth             1.2  AES-128-GCM        SHA512  prf
    server  udp4  tls-auth-swapped     1.3  AES-256-GCM        SHA1    exporter
    server  udp4  tls-auth-both        1.2  CHACHA20-POLY1305  SHA256  exporter
    server  udp4  tls-crypt            1.3  AES-192-GCM        -       prf
    server  udp4  tls-crypt-v2         1.2  CHACHA20-POLY1305  -       prf
    server  udp4  tls-crypt-v2-beside  1.3  AES-256-CBC        SHA256  exporter
    server  udp6  none                 1.3  CHACHA20-POLY1305  -       prf
    server  udp6  tls-auth             1.3  AES-256-CBC        SHA256  prf
    server  udp6  tls-auth-swapped     1.3  AES-256-CBC        SHA256  prf
    server  udp6  tls-auth-both        1.3  AES-256-GCM        SHA512  exporter
    server  udp6  tls-crypt            1.2  AES-192-GCM        -       exporter
    server  udp6  tls-crypt-v2         1.2  AES-128-GCM        -       exporter
    server  udp6  tls-crypt-v2-beside  1.2  AES-256-GCM        -       prf
    server  tcp4  none                 1.2  AES-192-GCM        -       exporter
    server  tcp4  tls-auth             1.3  AES-256-GCM        SHA1    exporter
    server  tcp4  tls-auth-swapped     1.2  AES-256-CBC        SHA256  prf
    server  tcp4  tls-auth-both        1.3  AES-128-GCM        SHA256  prf
    server  tcp4  tls-crypt            1.2  CHACHA20-POLY1305  -       exporter
    server  tcp4  tls-crypt-v2         1.3  AES-256-CBC        SHA256  prf
    server  tcp4  tls-crypt-v2-beside  1.2  CHACHA20-POLY1305  -       prf
    server  tcp6  tls-crypt            1.3  AES-256-GCM        -       exporter
"""
"""`ours` is which end is our program; "-" leaves the default digest. "swapped": the client has key direction 0;
"both": no direction; "beside": the server takes clients with a key of their own and such with the static key."""

FALLBACK = "AES-256-CBC"
"""The one that providers without negotiation use: no client of ours is told it by such a server."""
BYTES = 100_000  # each way
_NO_NEGOTIATION = ("compat-mode 2.3.0", f"data-ciphers-fallback {FALLBACK}")
_NOT_TOLD = (f"data-ciphers-fallback {FALLBACK}", 'pull-filter ignore "cipher"')


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    ours: str
    over: str
    wrap: str
    tls: str
    cipher: str
    digest: str
    keys: str

    @property
    def name(self) -> str:
        """For the report of a test run."""
        return "-".join((self.over, self.wrap, self.tls, self.cipher, self.digest.strip("-"), self.keys))

    @property
    def fallback(self) -> bool:
        """Whether the cipher is not negotiated."""
        return self.ours == "client" and self.cipher == FALLBACK

    def case(self) -> Case:
        """What the programs are told."""
        return Case(
            proto=self.over[:3], family=int(self.over[3]), wrap=self.wrap, tls=self.tls, cipher=self.cipher,
            digest=self.digest.strip("-"), keys=self.keys,
            server_lines=_NO_NEGOTIATION if self.fallback else (), client_lines=_NOT_TOLD if self.fallback else (),
        )  # fmt: skip

    def kinds(self) -> tuple[str, str]:
        """Who is the server and who the client."""
        return (OPENVPN, OURS) if self.ours == "client" else (OURS, OPENVPN)


HEADING, *_LINES = TABLE.strip().splitlines()
ROWS = tuple(Row(*line.split()) for line in _LINES)


def check_agreement(openvpn: Peer, row: Row) -> None:
    """The real one says that it was this TLS version, this cipher and this way to derive keys."""
    log = openvpn.log
    assert f"Control Channel: TLSv{row.tls}" in log, "another TLS version"
    reply = re.search(r"PUSH_REPLY[^']*", log)
    assert reply, "no PUSH_REPLY in openvpn's log"
    assert f",cipher {row.cipher}," in reply[0] + ",", reply[0]
    assert ("tls-ekm" in reply[0]) == (row.keys == "exporter"), reply[0]


def run(bench: Bench, row: Row, backend: str) -> None:
    """Make the tunnel of `row`, carry data both ways, ask both whether it was done the row's way, and end it.

    The environment says which data plane ours has; `backend` is what it should be.
    """
    server, client = bench.both(row.case(), *row.kinds())
    bench.exchange(BYTES)
    theirs, ours = (server, client) if server.kind == OPENVPN else (client, server)
    check_agreement(theirs, row)
    assert f"data plane: {backend}" in ours.log, "another data plane"
    if row.fallback:
        client.wait_log(f"data {FALLBACK}")
    assert client.stop() == 0, "the client's exit code"
    assert server.stop() == 0, "the server's exit code"


def verdict(pki: Pki, row: Row, backend: str) -> str:
    """ "" or what went wrong, in a line."""
    ENVIRONMENT[VARIABLE] = backend
    with tempfile.TemporaryDirectory(prefix="miragevpn-matrix-") as folder:
        bench = Bench(pki, Wire(), Path(folder))
        try:
            run(bench, row, backend)
        except (AssertionError, OSError) as problem:
            return (str(problem).splitlines() or [type(problem).__name__])[0]
        finally:
            bench.close()
    return ""


def main() -> int:
    """Print the table, row by row; 1 if anything failed."""
    pki = pki_module.make()
    tunnels = failed = 0
    for backend in (NATIVE, REFERENCE):
        if backend == NATIVE and not find_spec(NATIVE_MODULE):
            print("The native data plane is not built here: `make setup` does where cargo is.\n")
            continue
        print(f"Data plane of ours: {backend}\n\n    {HEADING.strip():<72}  verdict")
        for line, row in zip(_LINES, ROWS, strict=True):
            began = time.monotonic()
            problem = verdict(pki, row, backend)
            tunnels += 1
            failed += bool(problem)
            said = f"FAILED: {problem}" if problem else "works"
            print(f"{line:<76}  {said}  ({time.monotonic() - began:.1f} s)", flush=True)
        print()
    print(f"{tunnels} tunnels, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
