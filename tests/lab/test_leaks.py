# SPDX-License-Identifier: BSD-2-Clause
"""No packet of an AppVM leaves by the uplink, whatever happens to the service, the tunnel, the firewall or the uplink.

In every test the AppVM `hostile` sends by every way it has without pause (programs/noise.py) while both ends of the
uplink are captured; `test_control` shows that the same noise is counted where there is no lockdown. Each test ends
with a working tunnel again where the event leaves one possible.
"""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.lab.appvm import Noise, ask, seen_address
from tests.lab.capture import Capture
from tests.lab.network import Lab
from tests.lab.places import FOREIGN_DNS4, SITE_A, SITE_B, VPN_DOMID, WEB4, WEB6, Address
from tests.lab.scene import Scene, scene
from tests.lab.service import early
from tests.lab.tables import VIRTUAL_DNS

OUR_TABLE = ("nft", "list", "table", "inet", "qubes-miragevpn")


@pytest.fixture
def stage() -> Iterator[Scene]:
    """The lab before the service ever ran; the providers are down."""
    with scene() as made:
        yield made


@pytest.fixture
def live(stage: Scene) -> Scene:
    """The same with profile A connected."""
    stage.connected()
    return stage


# --- the service ------------------------------------------------------------------------------------------


def test_before_the_first_start(stage: Scene) -> None:
    """The early step alone closes: an AppVM that was there before the service gets nothing out."""
    stage.must_be_closed(rounds=50)


def test_connecting_to_a_server_that_is_not_there(stage: Scene) -> None:
    """Trying for ever opens nothing."""
    stage.service.start()
    stage.service.wait_state("connecting")
    stage.must_be_closed(rounds=50)
    assert stage.service.state() in ("connecting", "failed")
    stage.providers.a.start()
    stage.must_heal()


def test_no_profile_and_a_broken_one(stage: Scene) -> None:
    """A service that cannot connect keeps closed, and does not end."""
    for path in stage.lab.vpn.path("/etc/qubes-miragevpn/profiles").iterdir():
        path.write_text("client\nno-such-directive\n")
    stage.service.start()
    stage.service.wait_state("failed")
    stage.must_be_closed()


def test_a_profile_with_foreign_keys(stage: Scene) -> None:
    """A server that we refuse, or that refuses us, gets no traffic."""
    stage.providers.a.start()
    path = stage.lab.vpn.path(f"/etc/qubes-miragevpn/profiles/{SITE_A.name}.ovpn")
    path.write_text(path.read_text().replace("verify-x509-name a.vpn.lab", "verify-x509-name c.vpn.lab"))
    stage.service.launch()
    stage.service.until(lambda: stage.service.state() in ("failed", "connecting"), "an attempt")
    stage.must_be_closed(rounds=50)


def test_the_server_goes_away(live: Scene) -> None:
    """The provider's server is killed without a word, and comes back."""
    live.providers.a.kill()
    live.service.until(lambda: live.service.state() != "connected", "noticing", within=20)
    live.must_be_closed()
    live.providers.a.start()
    live.must_heal()


def test_killed(live: Scene) -> None:
    """SIGKILL: nobody is there to clean up; then systemd starts it again."""
    live.service.kill()
    live.must_be_closed(rounds=50)
    live.service.start()
    live.must_heal()


def test_killed_while_connecting(stage: Scene) -> None:
    """SIGKILL at every stage of a start that is possible to hit."""
    stage.providers.a.start()
    for delay in (0.3, 0.6, 0.9, 1.2):
        stage.service.launch()
        time.sleep(delay)
        stage.service.kill()
        stage.noise.rounds(8)
        stage.must_be_tight()
    stage.must_be_closed()
    stage.service.start()
    stage.must_heal()


def test_frozen(live: Scene) -> None:
    """SIGSTOP: the kernel still routes into a tunnel that nobody reads; after SIGCONT it goes on."""
    live.service.send(signal.SIGSTOP)
    live.must_be_closed(rounds=50)
    live.service.send(signal.SIGCONT)
    live.must_heal()


def test_stopped_and_started(live: Scene) -> None:
    """A clean stop leaves everything closed and nothing of the tunnel."""
    assert live.service.stop() == 0
    live.must_be_closed()
    assert "vpn0" not in live.lab.vpn.run("ip", "-br", "link").stdout
    live.service.start()
    live.must_heal()


def test_switching(live: Scene) -> None:
    """From provider to provider and back: there is no moment in the clear, and no mixing."""
    live.providers.b.start()
    for site in (SITE_B, SITE_A, SITE_B):
        assert live.service.call("Switch", site.name, source="dom0").code == 0
        live.service.wait_state("connected", profile=site.name)
        live.must_carry(site)


def test_disconnecting(live: Scene) -> None:
    """Disconnect closes and stays closed, Connect opens the same profile again."""
    assert live.service.call("Disconnect", source="dom0").code == 0
    live.service.wait_state("closed")
    live.must_be_closed(rounds=50)
    assert live.service.call("Connect", source="dom0").code == 0
    live.must_heal()


# --- the tunnel, the firewall, the uplink -------------------------------------------------------------------


def test_the_tunnel_interface_is_deleted(live: Scene) -> None:
    """``ip link delete vpn0`` by somebody else."""
    live.lab.vpn.run("ip", "link", "delete", "vpn0")
    live.noise.rounds(50)
    live.must_heal()


def test_the_tunnel_interface_goes_down(live: Scene) -> None:
    """``ip link set vpn0 down``: its routes vanish."""
    live.lab.vpn.run("ip", "link", "set", "vpn0", "down")
    live.noise.rounds(50)
    live.must_heal()


def test_the_uplink_is_removed_and_comes_back(live: Scene) -> None:
    """The netvm is changed or crashes: eth0 vanishes, and Qubes sets a default route when it is there again."""
    live.lab.remove_uplink()
    live.must_be_closed()
    live.lab.add_uplink()
    live.must_heal(within=25)
    assert "default" not in live.lab.vpn.run("ip", "route", "show", "table", "main").stdout


def test_the_ruleset_is_flushed_while_connected(live: Scene) -> None:
    """``nft flush ruleset``: noticed, and closed or enforced again; Qubes' own tables are gone too (and its NAT)."""
    live.lab.vpn.run("nft", "flush", "ruleset")
    live.service.until(lambda: live.lab.vpn.run(*OUR_TABLE, check=False).returncode == 0, "our table again", 8)
    live.noise.rounds(50)
    live.must_be_tight()


def test_our_table_is_deleted_while_connected(live: Scene) -> None:
    """Only our table is deleted: it comes back and traffic goes on."""
    live.lab.vpn.run("nft", "delete", "table", "inet", "qubes-miragevpn")
    live.service.until(lambda: live.lab.vpn.run(*OUR_TABLE, check=False).returncode == 0, "our table again", 8)
    live.must_heal()


def test_the_policy_rules_are_flushed_while_connected(live: Scene) -> None:
    """``ip rule flush``, both families, and main looked up again as everywhere else."""
    for family in ("-4", "-6"):
        live.lab.vpn.run("ip", family, "rule", "flush")
        live.lab.vpn.run("ip", family, "rule", "add", "pref", "32766", "lookup", "main")
    live.noise.rounds(50)
    live.must_heal()


# --- each barrier alone -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "dead"),
    [("firewall", False), ("rules", False), ("firewall", True), ("rules", True), ("no way out", True)],
)
def test_one_barrier_is_enough(stage: Scene, left: str, dead: bool) -> None:
    """With the other barriers taken away, and no service to mend them, one holds; before the first start and after.

    Before the service ever ran there are only two: setup-ip has put a default route into the main table.
    """
    if dead:
        stage.connected()
        stage.service.kill()
    vpn = stage.lab.vpn
    if left != "firewall":
        vpn.run("nft", "delete", "table", "inet", "qubes-miragevpn")
    if left != "rules":
        for family in ("-4", "-6"):
            rules = vpn.run("ip", family, "rule", "show").stdout.splitlines()
            vpn.ip_family(
                family, [f"rule delete pref {line.split(':')[0]}" for line in rules if line.startswith("515")]
            )
    if left != "no way out":
        gateway = Address.of(VPN_DOMID - 1)
        for address in (gateway.ip4, gateway.ip6):
            vpn.ip(f"route replace default via {address} dev eth0 onlink")
    for address in (WEB4, WEB6):
        assert vpn.run("ping", "-c", "1", "-W", "0.5", address, check=False).returncode != 0
    stage.must_be_closed()


def test_without_any_barrier_it_leaks(stage: Scene) -> None:
    """The control of the test above: with all three taken away the same noise is seen on the uplink at once."""
    stage.connected()
    stage.service.kill()
    vpn = stage.lab.vpn
    vpn.run("nft", "delete", "table", "inet", "qubes-miragevpn")
    for family in ("-4", "-6"):
        rules = vpn.run("ip", family, "rule", "show").stdout.splitlines()
        vpn.ip_family(family, [f"rule delete pref {line.split(':')[0]}" for line in rules if line.startswith("515")])
    for address in (Address.of(VPN_DOMID - 1).ip4, Address.of(VPN_DOMID - 1).ip6):
        vpn.ip(f"route replace default via {address} dev eth0 onlink")
    stage.noise.rounds()
    seen = stage.capture.result()
    assert {"IPv4 TCP", "IPv4 UDP", "IPv6 UDP", "IPv4 ICMP"} <= set(seen.clear_kinds), seen
    with pytest.raises(AssertionError, match=r"answers came|clear packets"):
        stage.must_be_closed()


# --- kinds of traffic -------------------------------------------------------------------------------------


def test_ipv6_is_refused(live: Scene) -> None:
    """A tunnel without IPv6: AppVMs are told at once, and nothing of it is seen."""
    begin = time.monotonic()
    assert seen_address(live.work, WEB6).startswith("no: ")
    assert time.monotonic() - begin < 1.5, "refused, not left to time out"
    live.noise.rounds()
    assert live.noise.sent["udp6"] > 0 and live.noise.sent["icmp6"] > 0 and live.noise.answers["udp6"] == 0
    live.must_be_tight()


def test_dns(live: Scene) -> None:
    """The virtual resolvers are the tunnel's; a foreign one is reached through it, and none while it is down."""
    for resolver in VIRTUAL_DNS:
        assert ask(live.work, "resolver", resolver) == SITE_A.name
    assert ask(live.work, "name", "web.lab") == WEB4
    assert ask(live.work, "resolver", FOREIGN_DNS4) == "foreign"
    assert ask(live.work, "resolver", Address.of(VPN_DOMID).ip4).startswith("no: ")
    live.service.kill()
    for resolver in (*VIRTUAL_DNS, FOREIGN_DNS4):
        assert ask(live.work, "resolver", resolver).startswith("no: ")
    live.must_be_tight()


def test_flows_older_than_the_end_of_the_tunnel(live: Scene) -> None:
    """A TCP stream and a UDP flow that were alive in the tunnel do not go on beside it."""
    before = live.noise.answers["stream"]
    live.noise.wait(lambda: live.noise.answers["stream"] > before + 3 and live.noise.answers["udp4"] > 3)
    live.service.kill()
    live.must_be_closed(rounds=50)


def test_flows_older_than_the_lockdown() -> None:
    """Where the early step comes late (a package installed in a running qube), flows in the clear end with it."""
    with Lab(None, appvms=("work",)) as lab, Noise(lab.appvms["work"].qube) as noise:
        noise.wait(lambda: noise.answers["stream"] > 3 and noise.answers["udp4"] > 3)
        early(lab)
        noise.rounds(3)
        with Capture(lab) as capture:
            noise.rounds(50)
            seen = capture.result()
            # What the web server still sends to the stream's old address is not ours to stop: sys-net lets it in.
            outgoing = [line for line in seen.clear if "> 10.137.0." not in line and "> fd09:" not in line]
            assert outgoing == []


def test_sys_vpns_own_traffic(live: Scene) -> None:
    """Programs in sys-vpn reach neither the uplink nor the tunnel: with a tunnel, and without."""
    for command in (("ping", "-c", "1", "-W", "1", WEB4), ("ping", "-6", "-c", "1", "-W", "1", WEB6)):
        assert live.lab.vpn.run(*command, check=False).returncode != 0
    live.service.kill()
    assert live.lab.vpn.run("ping", "-c", "1", "-W", "1", WEB4, check=False).returncode != 0
    live.must_be_tight()


def test_an_appvm_plugged_in_while_connecting_and_while_connected(stage: Scene) -> None:
    """A new AppVM is closed as long as the tunnel is, and works as soon as it does."""
    stage.service.start()
    stage.service.wait_state("connecting")
    early_bird = stage.lab.attach("early-bird")
    assert seen_address(early_bird).startswith("no: ")
    stage.must_be_closed()
    stage.providers.a.start()
    stage.must_heal()
    stage.must_carry(SITE_A, early_bird, within=2)
    stage.must_carry(SITE_A, stage.lab.attach("late"), within=2)
    stage.lab.disconnect(early_bird)
    stage.lab.connect(early_bird)
    stage.must_carry(SITE_A, early_bird, within=3)


def test_nobody_on_the_uplink_reaches_the_tunnel_or_an_appvm(live: Scene) -> None:
    """What comes from sys-net's side to the tunnel's address (CVE-2019-14899) or to an AppVM ends in sys-vpn."""
    net, here = live.lab.net, Address.of(VPN_DOMID)
    tunnel = json.loads(live.lab.vpn.run("ip", "-j", "-4", "address", "show", "dev", "vpn0").stdout)
    inner = tunnel[0]["addr_info"][0]["local"]
    assert inner.startswith(SITE_A.tunnel)
    net.ip(f"route add {inner} via {here.ip4} dev vif{VPN_DOMID}.0 onlink")
    net.ip(f"route add {live.work.address.ip4} via {here.ip4} dev vif{VPN_DOMID}.0 onlink")
    with live.work.qube.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((live.work.address.ip4, 5000))
        receiver.settimeout(0.5)
        with net.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"from the uplink", (live.work.address.ip4, 5000))
        with pytest.raises(TimeoutError):
            receiver.recv(100)
    for target in (inner, live.work.address.ip4):
        assert net.run("ping", "-c", "1", "-W", "1", target, check=False).returncode != 0


def test_waking_from_suspend(live: Scene) -> None:
    """The suspend hook sends SIGUSR1: the tunnel is made anew, nothing is seen meanwhile."""
    live.service.send(signal.SIGUSR1)
    live.service.until(lambda: sum("authenticated the server" in line for line in live.service.log) == 2, "a handshake")
    live.must_heal()


def test_the_early_step_runs_again_while_connected(live: Scene) -> None:
    """A package upgrade or a restart of qubes-firewall asserts the lockdown again; the tunnel opens again after it."""
    early(live.lab)
    live.noise.rounds(25)
    live.must_heal()
