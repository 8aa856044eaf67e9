# SPDX-License-Identifier: BSD-2-Clause
"""What is tried alone elsewhere, together: places and ``max-clients``, names, files of single clients, pools."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import ClientDir, Credentials, Listen, OneClient, Proto, ServerConfig
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.runtime.operating.perclient import ClientFiles
from tests.interop.pki import Pki
from tests.pair.test_handshake import transfer
from tests.pair.test_server import address, identity, join, machine
from tests.pair.test_server_addresses import arrives
from tests.pair.test_server_login import ASKING, Desk
from tests.pair.test_server_single import MASK, serving
from tests.pair.world import Side, World, client_config, inner_packet, server_config, up

LATE = "10.8.0.9"  # where the pool would not begin by itself


@pytest.mark.parametrize("first", list(Proto))
def test_max_clients_counts_over_all_places(pki: Pki, first: Proto) -> None:
    """A client by UDP and one by TCP are two; the third waits until one has gone, whichever way it comes."""
    config: ServerConfig = server_config(pki, max_clients=2, duplicate_cn=True)
    world = World(replace(config, beside=(Listen("", 1195, Proto.TCP),)))
    second = Proto.TCP if first is Proto.UDP else Proto.UDP
    one, two = join_by(world, pki, first), join_by(world, pki, second)
    late = world.client(client_config(pki, proto=first, identity=identity(pki.second_client)))
    assert not world.run(20, lambda: up(late)) and len(machine(world)._peers.admitted) == 2
    for client in (one, two):
        transfer(world, client)
    two.event(c.UserCommand(c.Command.DISCONNECT))
    assert world.run(400, lambda: up(late)) and len(machine(world)._peers.admitted) == 2


def join_by(world: World, pki: Pki, proto: Proto) -> Side:
    side = world.client(client_config(pki, proto=proto))
    assert world.run(60, lambda: up(side))
    return side


@pytest.mark.parametrize("proto", list(Proto))
@pytest.mark.parametrize("duplicate_cn", [False, True])
def test_the_same_name_by_another_transport(pki: Pki, proto: Proto, duplicate_cn: bool) -> None:
    world = World(replace(server_config(pki, duplicate_cn=duplicate_cn), beside=(Listen("", 1195, Proto.TCP),)))
    one = join_by(world, pki, proto)
    two = join_by(world, pki, Proto.TCP if proto is Proto.UDP else Proto.UDP)
    assert len(machine(world)._peers.admitted) == 1 + duplicate_cn
    assert (address(one) != address(two)) is duplicate_cn
    transfer(world, two)


FIXED = OneClient(ifconfig=(IPv4Address("10.8.0.77"), MASK))


@pytest.mark.parametrize(
    ("duplicate_cn", "file", "before", "given", "kept"),
    [
        # two sessions of qube-one, then qube-two; what each has at the end; who is remembered with what
        (False, None, {}, ("10.8.0.2", "10.8.0.2", "10.8.0.3"), {"qube-one": "10.8.0.2", "qube-two": "10.8.0.3"}),
        (True, None, {}, ("10.8.0.2", "10.8.0.3", "10.8.0.4"), {"qube-one": "10.8.0.3", "qube-two": "10.8.0.4"}),
        (False, None, {"qube-one": LATE}, (LATE, LATE, "10.8.0.2"), {"qube-one": LATE, "qube-two": "10.8.0.2"}),
        (True, None, {"qube-one": LATE}, (LATE, "10.8.0.2", "10.8.0.3"), {"qube-two": "10.8.0.3"}),
        (False, FIXED, {"qube-one": LATE}, ("10.8.0.77", "10.8.0.77", "10.8.0.2"), {"qube-one": LATE}),
        (False, None, {"qube-two": "10.8.0.2"}, ("10.8.0.3", "10.8.0.3", "10.8.0.2"), {"qube-two": "10.8.0.2"}),
        (False, FIXED, {"qube-two": "10.8.0.77"}, ("10.8.0.77", "10.8.0.77", "10.8.0.2"), {"qube-two": "10.8.0.2"}),
    ],
)
def test_names_files_and_what_was_before(
    pki: Pki, duplicate_cn: bool, file: OneClient | None, before: dict[str, str], given: tuple[str, ...],
    kept: dict[str, str],
) -> None:  # fmt: skip
    files: dict[str, OneClient | str] = {} if file is None else {"qube-one": file}
    world = serving(pki, files, duplicate_cn=duplicate_cn, network6=None)
    for name, known in before.items():
        machine(world).recall(name, ip_address(known))
    sides = (join(world, pki), join(world, pki), join(world, pki, pki.second_client))
    assert tuple(map(address, sides)) == given
    remembered = {name: four for name, four, _ in machine(world).leases()}
    assert kept.items() <= remembered.items()
    again = serving(pki, files, duplicate_cn=duplicate_cn, network6=None)
    for name, four in remembered.items():
        machine(again).recall(name, ip_address(four))
    assert address(join(again, pki, pki.second_client)) == given[2], "the same after a restart, whoever comes first"


BEHIND = OneClient(networks=(ip_network("10.5.0.0/16"),))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("proto", list(Proto))
def test_networks_behind_clients_over_both_transports(pki: Pki, together: bool, proto: Proto) -> None:
    """``client-to-client`` and ``iroute``: there and back, each by its own source, until the one in front goes."""
    world = serving(pki, {"qube-one": BEHIND}, client_to_client=together, beside=(Listen("", 1195, Proto.TCP),))
    world.server.channel._client_to_client = together
    one = join_by(world, pki, proto)
    two = join(world, pki, pki.second_client)
    there, back = (inner_packet(*ends, b"over") for ends in ((address(two), "10.5.1.1"), ("10.5.1.1", address(two))))
    assert arrives(world, two, one, there) is together and arrives(world, one, two, back) is together
    assert there not in world.server.tun and back not in world.server.tun
    assert not arrives(world, two, one, inner_packet("10.5.9.9", "10.5.1.1", b"not its own source"))
    one.event(c.UserCommand(c.Command.DISCONNECT))
    world.run(400, lambda: len(machine(world)._peers) == 1)
    assert arrives(world, two, world.server, there), "now this machine's routes say where that is"


OUTSIDE = "../outside"
ODD = [OUTSIDE, ".", "..", ".hidden", "sub/inner", "/etc/passwd", "DEFAULT", "a\x1b[2Jb", "comma,name", "two words"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_name_finds_its_own_file_or_none(pki: Pki, tmp_path: Path, name: str, exclusive: bool) -> None:
    """Whoever chooses his name chooses no file outside of the folder, no hidden one, and not the one for everybody."""
    ccd = tmp_path / "ccd"
    (ccd / "sub").mkdir(parents=True)
    for path in (tmp_path / "outside", ccd / ".hidden", ccd / "sub" / "inner", ccd / "DEFAULT"):
        path.write_text("ifconfig-push 10.8.0.66 255.255.255.0\n")
    own = not set(name) & {"/"} and not name.startswith(".") and name != "DEFAULT"
    if own:
        (ccd / name).write_text("ifconfig-push 10.8.0.55 255.255.255.0\n")
    rules = ClientDir("ccd", exclusive)
    desk = Desk(pki, replace(ASKING, name_is_username=True), client_dir=rules)
    machine(desk.world)._welcome._single = ClientFiles(rules, tmp_path)
    client = desk.client(Credentials(name, Secret(b"right")), auth_retry="none")
    desk.world.run(20, lambda: up(client) or bool(client.effects(c.Stop)))
    assert up(client) is own
    if own:
        assert address(client) == "10.8.0.55"
    notes = desk.notes()
    assert "\x1b" not in notes and all(each.text.isprintable() for each in desk.world.server.effects(c.Notify))


@pytest.mark.parametrize("size", [255, 256, 4096])
def test_a_long_name_is_a_files_or_nobodys(tmp_path: Path, size: int) -> None:
    files: Any = ClientFiles(ClientDir("."), tmp_path)
    if size > 255:
        with pytest.raises(ConfigError):
            files("x" * size)
    else:
        (tmp_path / ("x" * size)).write_text("disable\n")
        assert files("x" * size) == OneClient(disabled=True)
