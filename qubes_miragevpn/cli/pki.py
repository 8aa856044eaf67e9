# SPDX-License-Identifier: BSD-2-Clause
"""`miragevpn pki`: a small authority for a private server, so that this is three commands.

    miragevpn pki init DIR
    miragevpn pki server DIR ADDRESS
    miragevpn pki client DIR NAME        as often as there are devices

A client gets one file that has everything; any OpenVPN client from 2.5 on takes it, and so does a VPN qube.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.exitcodes import ExitCode

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from qubes_miragevpn.crypto.authority import Issued
    from qubes_miragevpn.runtime.pki import Folder, Place

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 825
MAX_DAYS = 36500
_FALLBACK_NAME = "vpn-server"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `pki` to the command line."""
    parser = subparsers.add_parser(
        "pki",
        help="keys and certificates for a private server",
        description="Make the keys and certificates of a private server and its clients, and revoke them.",
    )
    commands = parser.add_subparsers(metavar="WHAT", required=True)

    def command(name: str, what: str, run: object) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        made.add_argument("folder", type=Path, metavar="DIR", help="the authority's folder")
        made.set_defaults(run=run)
        return made

    init = command("init", "make an authority in a new folder", _init)
    init.add_argument("--name", default="Private VPN", help="what the authority is called (default %(default)s)")
    init.add_argument("--password", action="store_true", help="ask for a password that encrypts the authority's key")
    _add_days(init, AUTHORITY_DAYS)

    server = command("server", "write the server's configuration, DIR/server.conf", _server)
    server.add_argument("address", metavar="ADDRESS", help="the name or address under which clients reach it")
    server.add_argument("--port", type=_port, default=1194, help="default %(default)s")
    server.add_argument("--proto", choices=("udp", "tcp"), default="udp", help="default %(default)s")
    server.add_argument(
        "--network", type=_network, default=IPv4Network("10.8.0.0/24"), metavar="NET/BITS",
        help="addresses inside the tunnel (default %(default)s)",
    )  # fmt: skip
    server.add_argument("--dns", type=ip_address, action="append", default=[], help="a resolver for the clients")
    server.add_argument("--no-redirect", action="store_true", help="clients send only the tunnel's own network here")
    server.add_argument("--no-nat", action="store_true", help="somebody else sees to forwarding and NAT on the server")
    _add_again(server)

    client = command("client", "write a client's profile, one file with everything", _client)
    client.add_argument("name", metavar="NAME", help="who it is for")
    client.add_argument("-o", "--output", metavar="FILE", help="default NAME.ovpn here; '-' is standard output")
    _add_again(client)

    revoke = command("revoke", "have the server refuse a certificate", _revoke)
    revoke.add_argument("name", metavar="NAME", help="whose")

    command("list", "show what was issued", _list)


def _add_days(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument("--days", type=_days, default=default, help="how long it is valid (default %(default)s)")


def _add_again(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--again", action="store_true", help="revoke the certificate of that name and make another")
    _add_days(parser, CERTIFICATE_DAYS)


# --- commands -------------------------------------------------------------------------------------------------


def _init(arguments: argparse.Namespace) -> int:
    from qubes_miragevpn.cli.words import ask_twice
    from qubes_miragevpn.runtime import pki

    folder: Path = arguments.folder
    password = ask_twice("New password of the authority's key: ") if arguments.password else None
    pki.create(folder, arguments.name, password, _now(), timedelta(days=arguments.days))
    print(f"made an authority in {folder}; whoever has {folder / 'ca.key'} can make clients: keep it")
    print(f"next: miragevpn pki server {folder} ADDRESS")
    return ExitCode.OK


def _server(arguments: argparse.Namespace) -> int:
    from qubes_miragevpn.crypto.authority import Purpose
    from qubes_miragevpn.runtime import pki

    name = _server_name(arguments.address)
    place = pki.Place(arguments.address, arguments.port, arguments.proto, name)
    with _opened(arguments) as folder:
        folder.make_room(_now(), again=arguments.again)
        issued = folder.issue(name, Purpose.SERVER, _now(), timedelta(days=arguments.days), again=arguments.again)
        written = folder.write_server(place, _server_text(arguments, folder, issued))
    print(f"wrote {written} for {place.address} port {place.port}/{place.proto}")
    print(f"next: miragevpn pki client {arguments.folder} NAME; then, on the server: miragevpn server {written}")
    return ExitCode.OK


def _client(arguments: argparse.Namespace) -> int:
    from qubes_miragevpn.crypto.authority import Purpose
    from qubes_miragevpn.runtime import disk, pki

    name = pki.check_name(arguments.name)
    output = Path(arguments.output or f"{name}.ovpn")
    if arguments.output != "-" and output.exists():
        raise ConfigError("the file exists already", file=str(output), fix="-o FILE names another")
    with _opened(arguments) as folder:
        place = folder.place()
        if name == place.name:
            raise ConfigError(f"{name} is the server's name")
        issued = folder.issue(name, Purpose.CLIENT, _now(), timedelta(days=arguments.days), again=arguments.again)
        text = _client_text(place, folder, issued)
    if arguments.output == "-":
        sys.stdout.write(text)
        return ExitCode.OK
    disk.create_file(output, text.encode())
    print(f"wrote {output}: give it to {name} over a safe way, and keep no copy")
    return ExitCode.OK


def _revoke(arguments: argparse.Namespace) -> int:
    with _opened(arguments) as folder:
        new = folder.revoke(arguments.name, _now())
    print(f"{arguments.name} is refused from now on" if new else f"{arguments.name} was revoked before")
    return ExitCode.OK


def _list(arguments: argparse.Namespace) -> int:
    now = _now()
    with _opened(arguments) as folder:
        entries = folder.entries()
    for entry in entries:
        one = entry.described
        state = "revoked" if entry.revoked else "expired" if one.expires <= now else "valid"
        kind = one.purpose.value if one.purpose else "?"
        print(f"{one.name:<32} {kind:<7} {state:<8} until {one.expires:%Y-%m-%d}  {one.serial:040x}")
    if not entries:
        print("nothing was issued yet")
    return ExitCode.OK


# --- the files ------------------------------------------------------------------------------------------------


def _server_text(arguments: argparse.Namespace, folder: Folder, issued: Issued) -> str:
    network: IPv4Network = arguments.network
    pushes = [] if arguments.no_redirect else ["redirect-gateway def1"]
    pushes += [f"dhcp-option DNS {address}" for address in arguments.dns]
    lines = [
        "# Made by `miragevpn pki server`. Run it with: miragevpn server FILE",
        f"server {network.network_address} {network.netmask}",
        "topology subnet",
        "dev tun",
        f"proto {'udp' if arguments.proto == 'udp' else 'tcp-server'}",
        f"port {arguments.port}",
        "dh none",
        "keepalive 10 60",
        "remote-cert-tls client",
        "tls-version-min 1.2",
        "crl-verify crl.pem",
        *(f'push "{option}"' for option in pushes),
        *([] if arguments.no_nat or arguments.no_redirect else ["nat"]),
    ]
    return "\n".join(lines) + "\n" + _material(folder, issued, folder.wrapping_key.decode("ascii"))


def _client_text(place: Place, folder: Folder, issued: Issued) -> str:
    lines = [
        "client",
        "dev tun",
        f"remote {place.address} {place.port} {'udp' if place.proto == 'udp' else 'tcp-client'}",
        "nobind",
        "persist-key",
        "persist-tun",
        "remote-cert-tls server",
        f"verify-x509-name {place.name} name",
        "tls-version-min 1.2",
        *(["explicit-exit-notify 1"] if place.proto == "udp" else []),
    ]
    return "\n".join(lines) + "\n" + _material(folder, issued, folder.client_key(_now()))


def _material(folder: Folder, issued: Issued, wrap: str) -> str:
    blocks = {
        "ca": folder.ca.decode("ascii"),
        "cert": issued.certificate.decode("ascii"),
        "key": issued.key.reveal().decode("ascii"),
        "tls-crypt-v2": wrap,
    }
    return "".join(f"<{name}>\n{text.strip()}\n</{name}>\n" for name, text in blocks.items())


# --- arguments ------------------------------------------------------------------------------------------------


def _opened(arguments: argparse.Namespace) -> AbstractContextManager[Folder]:
    from qubes_miragevpn.cli.words import ask_password
    from qubes_miragevpn.runtime.pki import Folder

    return Folder.opened(arguments.folder, ask_password)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _server_name(address: str) -> str:
    """The name in the server's certificate: the address, if that can be a name."""
    from qubes_miragevpn.runtime.pki import check_name

    try:
        return check_name(address)
    except ConfigError:
        pass
    try:
        ip_address(address)
    except ValueError:
        raise ConfigError(f"{address!r} is neither a host's name nor an address") from None
    return _FALLBACK_NAME  # an IPv6 address


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
        raise argparse.ArgumentTypeError("not a port number")
    return int(text)


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"1 to {MAX_DAYS}")
    return int(text)


def _network(text: str) -> IPv4Network:
    network = IPv4Network(text)
    if not 8 <= network.prefixlen <= 29:
        raise argparse.ArgumentTypeError("from /8 to /29")
    return network
