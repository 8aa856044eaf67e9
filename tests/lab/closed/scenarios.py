# SPDX-License-Identifier: BSD-2-Clause
"""What happens to a VPN qube, one row each. A scenario begins with a service that runs and is connected, or tries to.

It provokes the event and lets the noise go on; what is captured meanwhile is counted by the test. Whether traffic flows
again is asked only where all barriers stand: with some taken away the service cannot open as it would.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.lab import qubesfirewall
from tests.lab.closed.barriers import Left
from tests.lab.network import setup_ip
from tests.lab.places import (
    LAN_ROUTER4,
    NET_DOMID,
    NIC,
    OTHER_NET_DOMID,
    SITE_A,
    SITE_B,
    VPN_DOMID,
    WEB4,
    Address,
)
from tests.lab.qube import LabError
from tests.lab.scene import Scene
from tests.lab.tables import QUBES_TABLES, dnat_dns

ROUNDS = 12
"""Rounds of noise after an event: half a second, some two hundred packets."""


@dataclass(frozen=True)
class Scenario:
    """`main`: repeated with each barrier in every test run."""

    act: Callable[[Scene], None]
    main: bool = False
    without: frozenset[Left] = field(default_factory=frozenset)  # where it takes away the only barrier there is


def settle(scene: Scene, rounds: int = ROUNDS) -> None:
    """Let the noise go on for a while."""
    scene.noise.rounds(rounds)


def closed(scene: Scene) -> None:
    """While nothing is open: with all barriers, nobody gets any answer; with some taken away, let the noise go on."""
    if scene.whole:
        scene.must_be_closed(ROUNDS)
    else:
        settle(scene)


def _connected(scene: Scene) -> bool:
    with contextlib.suppress(LabError):
        scene.service.until(lambda: scene.service.state() == "connected", "a connection", 60 if scene.whole else 6)
        return True
    return False


# --- the service


def killed(scene: Scene) -> None:
    """SIGKILL, and systemd starts it again."""
    scene.service.kill()
    closed(scene)
    scene.service.start()
    settle(scene)


def frozen(scene: Scene) -> None:
    """SIGSTOP: the kernel still routes into a tunnel that nobody reads."""
    scene.service.send(signal.SIGSTOP)
    closed(scene)
    scene.service.send(signal.SIGCONT)


def stopped_and_started(scene: Scene) -> None:
    """``systemctl restart``, a package upgrade."""
    assert scene.service.stop() == 0
    closed(scene)
    assert "vpn0" not in scene.lab.vpn.run("ip", "-br", "link").stdout
    scene.service.start()


def server_gone(scene: Scene) -> None:
    """The provider's server dies and comes back."""
    scene.providers.a.kill()
    with contextlib.suppress(LabError):
        scene.service.until(lambda: scene.service.state() != "connected", "noticing", within=10)
    closed(scene)
    scene.providers.a.start()


def switched(scene: Scene) -> None:
    """To the other provider and back."""
    scene.providers.b.start()
    for site in (SITE_B, SITE_A):
        scene.service.call("Switch", site.name, source="dom0")
        if _connected(scene) and scene.whole:
            scene.must_carry(site)
        settle(scene, 6)
    scene.providers.b.kill()


def disconnected(scene: Scene) -> None:
    """Disconnect and Connect by qrexec."""
    scene.service.call("Disconnect", source="dom0")
    closed(scene)
    scene.service.call("Connect", source="dom0")


def woken(scene: Scene) -> None:
    """The suspend hook's signal."""
    scene.service.send(signal.SIGUSR1)
    settle(scene)


def without_a_profile(scene: Scene) -> None:
    """First start: nothing to connect with; then the profiles are back."""
    folder = scene.lab.vpn.path("/etc/qubes-miragevpn/profiles")
    saved = {path: path.read_text() for path in folder.glob("*.ovpn")}
    scene.service.stop()
    for path in saved:
        path.write_text("client\nno-such-directive\n")
    scene.service.start()
    closed(scene)
    for path, text in saved.items():
        path.write_text(text)
    scene.service.call("Connect", source="dom0")


# --- the tunnel


def tun_deleted(scene: Scene) -> None:
    """``ip link delete vpn0`` by somebody else."""
    scene.lab.vpn.run("ip", "link", "delete", "vpn0", check=False)
    settle(scene)


def tun_down(scene: Scene) -> None:
    """Its routes vanish."""
    scene.lab.vpn.run("ip", "link", "set", "vpn0", "down", check=False)
    settle(scene)


def tun_renamed(scene: Scene) -> None:
    """No rule knows the name that it has now; it is deleted at last."""
    vpn = scene.lab.vpn
    vpn.run("ip", "link", "set", "vpn0", "down", check=False)
    vpn.run("ip", "link", "set", "vpn0", "name", "other0", check=False)
    vpn.run("ip", "link", "set", "other0", "up", check=False)
    settle(scene)
    vpn.run("ip", "link", "delete", "other0", check=False)


# --- the uplink


def uplink_replaced(scene: Scene) -> None:
    """The netvm crashes and is started again."""
    scene.lab.remove_uplink()
    closed(scene)
    scene.lab.add_uplink()
    settle(scene)


def netvm_changed(scene: Scene) -> None:
    """``qvm-prefs sys-vpn netvm`` to one with another address, and back: gateway, routes, resolv.conf, dnat-dns."""
    for domid in (OTHER_NET_DOMID, NET_DOMID):
        scene.lab.remove_uplink()
        settle(scene, 3)
        scene.lab.add_uplink(domid)
        settle(scene, 6)


def scripts_again(scene: Scene) -> None:
    """Qubes' scripts run once more: setup-ip, qubes-setup-dnat-to-ns with and without a resolver."""
    setup_ip(scene.lab.vpn, Address.of(VPN_DOMID), Address.of(NET_DOMID))
    settle(scene, 4)
    scene.lab.vpn.nft(dnat_dns(None))
    settle(scene, 4)
    scene.lab.set_up_uplink()
    settle(scene, 4)


def defaults_put_back(scene: Scene) -> None:
    """Somebody puts default routes into main, of either family."""
    gateway = Address.of(NET_DOMID)
    for via in (gateway.ip4, gateway.ip6):
        scene.lab.vpn.ip(f"route replace default via {via} dev eth0 onlink")
    settle(scene)


def second_uplink(scene: Scene) -> None:
    """A network card is given to the qube: no group, an address, a network on its link, a default route."""
    scene.lab.add_nic()
    settle(scene)
    scene.lab.vpn.run("ip", "route", "add", "default", "via", LAN_ROUTER4, "dev", NIC, "metric", "50", check=False)
    settle(scene)
    scene.lab.remove_nic()


# --- the firewall


def flushed(scene: Scene) -> None:
    """``nft flush ruleset``; then Qubes' own services load theirs again."""
    vpn, lab = scene.lab.vpn, scene.lab
    vpn.run("nft", "flush", "ruleset")
    settle(scene)
    vpn.nft(QUBES_TABLES)
    qubesfirewall.start(vpn)
    for appvm in lab.appvms.values():
        for family, address in (("ip", appvm.address.ip4), ("ip6", appvm.address.ip6)):
            vpn.nft(f"""
add element {family} qubes allowed {{ "{appvm.vif}" . {address} }}
add element {family} qubes downstream {{ {address} }}""")
            qubesfirewall.connect(vpn, address)
    settle(scene)


def qubes_firewall_stopped(scene: Scene) -> None:
    """qubes-firewall ends cleanly, which deletes its tables, and starts again."""
    vpn = scene.lab.vpn
    vpn.nft("delete table ip qubes-firewall\ndelete table ip6 qubes-firewall")
    settle(scene)
    qubesfirewall.start(vpn)
    for appvm in scene.lab.appvms.values():
        for address in (appvm.address.ip4, appvm.address.ip6):
            qubesfirewall.connect(vpn, address)
    settle(scene)


def rules_flushed(scene: Scene) -> None:
    """``ip rule flush`` of both families, and main looked up as everywhere else."""
    for family in ("-4", "-6"):
        scene.lab.vpn.run("ip", family, "rule", "flush")
        scene.lab.vpn.run("ip", family, "rule", "add", "pref", "32766", "lookup", "main")
    settle(scene)


# --- downstream


def vif_comes_and_goes(scene: Scene) -> None:
    """The noisy AppVM is pulled and plugged in again, at the same address."""
    appvm = scene.lab.appvms["hostile"]
    scene.lab.disconnect(appvm)
    scene.lab.connect(appvm)
    settle(scene)


def vif_without_a_group(scene: Scene) -> None:
    """The moment before vif-route-qubes has set the group, held for a while."""
    vif = scene.lab.appvms["hostile"].vif
    scene.lab.vpn.ip(f"link set dev {vif} group 0")
    settle(scene)
    scene.lab.vpn.ip(f"link set dev {vif} group 2")


def flows_forgotten(scene: Scene) -> None:
    """Connection tracking forgets everything: packets of known flows come as of none, un-NATed."""
    scene.lab.vpn.run("conntrack", "-F")
    settle(scene)


def routed_to_the_netvm(scene: Scene) -> None:
    """A host route to a server on the internet by the uplink, as a plain openvpn client would set for its own."""
    gateway = Address.of(NET_DOMID).ip4
    vpn = scene.lab.vpn
    for target in (SITE_A.public4, WEB4):
        vpn.run("ip", "route", "replace", target, "via", gateway, "dev", "eth0", "onlink", check=False)
    settle(scene)
    for target in (SITE_A.public4, WEB4):
        vpn.run("ip", "route", "del", target, "table", "main", check=False)
    time.sleep(0.1)


SCENARIOS: Mapping[str, Scenario] = {
    "killed": Scenario(killed, main=True),
    "frozen": Scenario(frozen),
    "stopped and started": Scenario(stopped_and_started),
    "server gone": Scenario(server_gone),
    "switched": Scenario(switched, main=True),
    "disconnected": Scenario(disconnected),
    "woken": Scenario(woken),
    "without a profile": Scenario(without_a_profile),
    "tun deleted": Scenario(tun_deleted, main=True),
    "tun down": Scenario(tun_down),
    "tun renamed": Scenario(tun_renamed),
    "uplink replaced": Scenario(uplink_replaced, main=True),
    "netvm changed": Scenario(netvm_changed),
    "scripts again": Scenario(scripts_again, main=True),
    "defaults put back": Scenario(defaults_put_back, without=frozenset({Left.NO_WAY_OUT})),
    "second uplink": Scenario(second_uplink),
    "ruleset flushed": Scenario(flushed, without=frozenset({Left.FIREWALL})),
    "qubes-firewall stopped": Scenario(qubes_firewall_stopped, main=True),
    "rules flushed": Scenario(rules_flushed, without=frozenset({Left.RULES})),
    "vif comes and goes": Scenario(vif_comes_and_goes, main=True),
    "vif without a group": Scenario(vif_without_a_group),
    "flows forgotten": Scenario(flows_forgotten),
    "routed to the netvm": Scenario(routed_to_the_netvm, without=frozenset({Left.NO_WAY_OUT})),
}
