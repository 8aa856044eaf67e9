# SPDX-License-Identifier: BSD-2-Clause
"""The Qubes network out of network namespaces, and the internet behind it.

      work                    personal                 (more can be plugged in: `attach`)
      eth0 10.137.0.21/32     eth0 10.137.0.22/32      fd09:24ef:4179::a89:15 and ::a89:16
        |                       |
      vif21.0 (group 2)       vif22.0 (group 2)        fe:ff:ff:ff:ff:ff, proxy arp, gateway 10.137.0.6/32
        +-----------+-----------+
                 sys-vpn                               the service, vpn0, our nftables table
             eth0 10.137.0.6/32 (group 1)              fd09:24ef:4179::a89:6        <- capture
                    |
             vif6.0 (group 2)                          gateway 10.137.0.5/32        <- capture
                 sys-net                               routes and masquerades IPv4 and IPv6
             ens6 192.0.2.10/24                        2001:db8:2::10
                    |
             to-net 192.0.2.1/24
                 internet                              web 203.0.113.80, 2001:db8:80::80
             to-a            to-b                      dns 203.0.113.53, foreign resolver 203.0.113.54
               |               |
             eth0            eth0
             provider-a      provider-b                198.51.100.10 and 198.51.100.200, tun0, NAT
                                                       resolvers on 10.8.0.1 and 10.9.0.1, inside the tunnel

Interface groups, addresses, routes, neighbours, sysctls, resolv.conf and nftables rules are equivalents of what Qubes
4.2 and 4.3 set up (qubes-core-agent-linux: setup-ip, vif-route-qubes, network-proxy-setup, firewall.py), in the same
order where order matters: forwarding is switched on only after the early firewall step has run. Without that step
sys-vpn forwards in clear, as a real network qube would: `test_control` shows it, so that the leak tests can fail.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.lab import qubesfirewall
from tests.lab.places import (
    APPVM_MAC,
    BACKEND_MAC,
    DNS4,
    FOREIGN_DNS4,
    HOSTS,
    LAN4,
    LAN_ROUTER4,
    NET4,
    NET6,
    NET_DOMID,
    NIC,
    SITE_A,
    SITE_B,
    UPLINK,
    VPN_DOMID,
    WEB4,
    WEB6,
    Address,
)
from tests.lab.qube import REPOSITORY, LabError, Qube
from tests.lab.tables import QUBES_TABLES, VIRTUAL_DNS, dnat_dns, flowtable

PROGRAMS = Path(__file__).parent / "programs"


@dataclass
class AppVM:
    """A qube behind sys-vpn."""

    qube: Qube
    domid: int
    address: Address

    @property
    def vif(self) -> str:
        """The backend interface in sys-vpn."""
        return f"vif{self.domid}.0"


Early = Callable[["Lab"], None]


class Lab:
    """The whole network. A context manager: leaving it takes everything down, whatever happened.

    `early` is what runs in sys-vpn before forwarding is switched on (the lockdown step); None leaves it out.
    """

    def __init__(self, early: Early | None, *, appvms: tuple[str, ...] = ("work", "personal")) -> None:
        self.early = early
        self.first_appvms = appvms
        self.folder = Path(tempfile.mkdtemp(prefix=f"qmv-lab-{os.getpid()}-"))
        self.qubes: list[Qube] = []
        self.appvms: dict[str, AppVM] = {}
        self.flowtable = False
        self._closing: list[Callable[[], None]] = []

    def __enter__(self) -> Lab:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- building -----------------------------------------------------------------------------------------

    def _build(self) -> None:
        if os.geteuid() != 0:
            raise LabError("the lab makes network namespaces: run it as root")
        for tool in ("ip", "nft", "unshare", "nsenter", "setpriv"):
            if shutil.which(tool) is None:
                raise LabError(f"{tool} is not installed (packages iproute2/iproute, nftables, util-linux)")
        if not (REPOSITORY / "setup.py").stat().st_mode & 0o004:
            raise LabError(f"the service's user cannot read this clone: chmod -R a+rX {REPOSITORY}")
        if not Path("/proc/sys/net/ipv6").is_dir():
            raise LabError("this kernel has no IPv6 (ipv6.disable=1): the lab could not show that it does not leak")
        names = ["internet", SITE_A.name, SITE_B.name, "sys-net", "sys-vpn", *self.first_appvms]
        self.qubes = [Qube.start(name, self.folder / name) for name in names]
        for qube in self.qubes:
            qube.wait_ready()
            _sysctl_defaults(qube)
        self.internet, self.provider_a, self.provider_b, self.net, self.vpn, *appvms = self.qubes
        self._build_internet()
        started = self._start_programs()
        self._boot_net()
        self._boot_vpn()
        for number, qube in enumerate(appvms):
            self._plug(qube, 21 + number)
        for program in started:
            program()

    def _start_programs(self) -> list[Callable[[], None]]:
        """Start the servers of the internet and the providers' resolvers; the results wait until each listens."""
        return [
            start_program(self.internet, "web.py", WEB4, WEB6),
            start_program(self.internet, "echo.py", WEB4, WEB6),
            start_program(self.internet, "dns.py", "internet", DNS4, *HOSTS),
            start_program(self.internet, "dns.py", "foreign", FOREIGN_DNS4, *HOSTS),
            start_program(self.provider_a, "dns.py", SITE_A.name, SITE_A.resolver, *HOSTS),
            start_program(self.provider_b, "dns.py", SITE_B.name, SITE_B.resolver, *HOSTS),
        ]

    def _build_internet(self) -> None:
        inet = self.internet
        lines = [f"address add {address} dev lo" for address in (f"{WEB4}/32", f"{DNS4}/32", f"{FOREIGN_DNS4}/32")]
        lines.append(f"address add {WEB6}/128 dev lo")
        for peer, there, here, addresses in (
            (self.net, "ens6", "to-net", ("192.0.2.1/24", "2001:db8:2::1/64")),
            *(
                (qube, "eth0", f"to-{site.name[-1]}", (f"{site.router4}/{site.prefix4}", f"{site.router6}/64"))
                for qube, site in ((self.provider_a, SITE_A), (self.provider_b, SITE_B))
            ),
        ):
            lines.append(f"link add {here} type veth peer name {there} netns {peer.holder.pid}")
            lines += [f"address add {address} dev {here} {_nodad(address)}" for address in addresses]
            lines.append(f"link set {here} up")
        inet.ip("\n".join(lines))
        inet.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
        for qube, site in ((self.provider_a, SITE_A), (self.provider_b, SITE_B)):
            qube.ip(f"""
address add {site.public4}/{site.prefix4} dev eth0
address add {site.public6}/64 dev eth0 nodad
link set eth0 up
route add default via {site.router4}
route add default via {site.router6}""")
            qube.sysctl({"ipv4/ip_forward": 1})
            qube.nft(f"""
table ip provider {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "eth0" ip saddr {site.tunnel}.0/24 masquerade
  }}
}}""")

    def _boot_net(self) -> None:
        self.net.nft(QUBES_TABLES)
        self.net.ip(f"""
address add {NET4}/24 dev ens6
address add {NET6}/64 dev ens6 nodad
link set ens6 up
route add default via 192.0.2.1
route add default via 2001:db8:2::1""")
        self.net.write("/etc/resolv.conf", f"nameserver {DNS4}\n")
        self.net.nft(dnat_dns(DNS4))
        qubesfirewall.start(self.net)
        self.net.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})

    def _boot_vpn(self) -> None:
        """The order of a qube's boot: Qubes' tables, our early step, forwarding, uplink; vifs come later."""
        vpn = self.vpn
        for flag in ("qubes-network", "qubes-firewall", "miragevpn"):
            vpn.write(f"/run/qubes-service/{flag}", "")
        vpn.write("/run/qubes/this-is-proxyvm", "")
        add_default_user(vpn)
        vpn.nft(QUBES_TABLES)
        if self.early is not None:
            self.early(self)
        qubesfirewall.start(vpn)
        vpn.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
        self.add_uplink()

    # --- what dom0 and Xen do -----------------------------------------------------------------------------

    def attach(self, name: str) -> AppVM:
        """Start one more AppVM and plug it into sys-vpn."""
        qube = Qube.start(name, self.folder / name)
        self.qubes.append(qube)
        qube.wait_ready()
        _sysctl_defaults(qube)
        return self._plug(qube, 21 + len(self.appvms))

    def _plug(self, qube: Qube, number: int) -> AppVM:
        appvm = AppVM(qube, number, Address.of(number))
        self.appvms[qube.name] = appvm
        self.connect(appvm)
        return appvm

    def connect(self, appvm: AppVM) -> None:
        """Plug the AppVM's network in (``qvm-prefs work netvm sys-vpn``)."""
        vpn = Address.of(VPN_DOMID)
        self._vif_online(self.vpn, appvm.qube, appvm.domid, appvm.address, vpn)
        setup_ip(appvm.qube, appvm.address, vpn)

    def disconnect(self, appvm: AppVM) -> None:
        """Pull the AppVM's network out."""
        self._vif_offline(self.vpn, appvm.domid, appvm.address)

    def add_uplink(self, gateway: int = NET_DOMID) -> None:
        """Plug sys-vpn's network in: sys-net's vif comes, udev has eth0 set up; `gateway`: another netvm's number."""
        self._vif_online(self.net, self.vpn, VPN_DOMID, Address.of(VPN_DOMID), Address.of(gateway))
        self.set_up_uplink(gateway)

    def set_up_uplink(self, gateway: int = NET_DOMID) -> None:
        """What udev starts, qubes-network-uplink@eth0: setup-ip, DNS pointed at the netvm, then drop-ins."""
        setup_ip(self.vpn, Address.of(VPN_DOMID), Address.of(gateway))
        self.vpn.nft(dnat_dns(VIRTUAL_DNS[0]))
        extra = self.vpn.path("/usr/lib/systemd/system/qubes-network-uplink@.service.d")
        for file in sorted(extra.glob("*.conf")):
            for line in file.read_text().splitlines():
                if line.startswith("ExecStartPost="):
                    self.vpn.run(*shlex.split(line.partition("=")[2]))

    def add_nic(self) -> None:
        """Give sys-vpn a network card of its own, in no group, with a router and a server on its link."""
        self.internet.ip(f"""
link add to-lan type veth peer name {NIC} netns {self.vpn.holder.pid}
address add {LAN_ROUTER4}/24 dev to-lan
link set to-lan up""")
        self.vpn.ip(f"address add {LAN4}/24 dev {NIC}\nlink set {NIC} up")

    def remove_nic(self) -> None:
        """Take it away."""
        self.internet.ip("link delete to-lan")

    def remove_uplink(self) -> None:
        """Pull sys-vpn's network out (``qvm-prefs sys-vpn netvm ''``, a crash of sys-net)."""
        self._vif_offline(self.net, VPN_DOMID, Address.of(VPN_DOMID))

    def _vif_online(self, backend: Qube, frontend: Qube, domid: int, front: Address, back: Address) -> None:
        """What xl devd and vif-route-qubes do in the backend; `back` is the gateway that the frontend sees."""
        vif = f"vif{domid}.0"
        peer = f"peer name eth0 netns {frontend.holder.pid} address {APPVM_MAC}"
        backend.ip(f"link add {vif} address {BACKEND_MAC} type veth {peer}")
        backend.sysctl({f"ipv4/conf/{vif}/proxy_arp": 1})
        self._accelerate(backend)
        for address in (front.ip4, front.ip6):
            family = "ip6" if ":" in address else "ip"
            backend.ip(f"neighbour replace {address} dev {vif} lladdr {APPVM_MAC} nud permanent")
            backend.nft(f"""
add element {family} qubes allowed {{ "{vif}" . {address} }}
add element {family} qubes downstream {{ {address} }}""")
            qubesfirewall.connect(backend, address)
            backend.ip(f"""
link set dev {vif} group 2 up
route replace {address} dev {vif} metric {32752 - domid}""")
        backend.ip(f"""
address replace {back.ip4}/32 dev {vif}
address replace {back.ip6}/128 dev {vif} nodad""")
        backend.sysctl({f"ipv6/conf/{vif}/proxy_ndp": 1})

    def _vif_offline(self, backend: Qube, domid: int, front: Address) -> None:
        vif = f"vif{domid}.0"
        for family, address in (("ip", front.ip4), ("ip6", front.ip6)):
            element = f'delete element {family} qubes allowed {{ "{vif}" . {address} }}'
            backend.run("nft", "-f", "-", text=element, check=False)
            backend.run("nft", "-f", "-", text=f"delete element {family} qubes downstream {{ {address} }}", check=False)
        backend.ip(f"link delete {vif}")

    def _accelerate(self, backend: Qube) -> None:
        """Flows from vif to eth0 skip the forward hook once they are accepted, where the kernel has flowtables."""
        links = backend.run("ip", "-o", "link").stdout.split("\n")
        devices = [line.split()[1].rstrip(":").split("@")[0] for line in links if line]
        text = flowtable([device for device in devices if device.startswith(("vif", "eth", "ens"))])
        self.flowtable = backend.run("nft", "-f", "-", text=text, check=False).returncode == 0

    # --- the end ------------------------------------------------------------------------------------------

    def on_close(self, action: Callable[[], None]) -> None:
        """Have `action` done when the lab is taken down, before its qubes go."""
        self._closing.append(action)

    def close(self) -> None:
        """Take everything down; can be called again."""
        while self._closing:
            with contextlib.suppress(Exception):
                self._closing.pop()()
        for qube in self.qubes:
            qube.close()
        self.remove_folder(self.folder)

    @staticmethod
    def remove_folder(folder: Path) -> None:
        """Remove a lab's temporary folder."""
        shutil.rmtree(folder, ignore_errors=True)

    def leftovers(self) -> list[str]:
        """What `close` did not take away, one line each; empty when all is well."""
        left = [line for qube in self.qubes for line in qube.survivors]
        if self.folder.exists():
            left.append(f"folder {self.folder}")
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return left + [f"mount {line}" for line in mounts if str(self.folder) in line]


def python(program: str) -> list[str]:
    """The command that runs one of the lab's programs: the interpreter with nothing loaded that it does not need."""
    return [sys.executable, "-I", "-S", str(PROGRAMS / program)]


def start_program(qube: Qube, program: str, *arguments: str) -> Callable[[], None]:
    """Start a server of the lab; calling the result waits for it and raises `LabError` if it did not start."""
    process = qube.popen([*python(program), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def wait() -> None:
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.readline() != b"ready\n":
            problem = process.stderr.read().decode(errors="replace").strip()
            raise LabError(f"{program} in {qube.name}: {problem.splitlines()[-1] if problem else 'ended'}")

    return wait


def _nodad(address: str) -> str:
    return "nodad" if ":" in address else ""


def _sysctl_defaults(qube: Qube) -> None:
    """A qube's sysctls, of which a namespace may have inherited others from this machine.

    Loose reverse-path filter as in systemd's 50-default.conf; nothing is forwarded until somebody says so. Duplicate
    addresses are not looked for, which saves a second.
    """
    qube.sysctl(
        {
            "ipv4/ip_forward": 0,
            "ipv4/conf/all/rp_filter": 0,
            "ipv4/conf/default/rp_filter": 2,
            "ipv6/conf/all/forwarding": 0,
            "ipv6/conf/all/disable_ipv6": 0,
            "ipv6/conf/default/disable_ipv6": 0,
            "ipv6/conf/default/accept_dad": 0,
        }
    )


def add_default_user(qube: Qube) -> None:
    """The account ``user`` and the group ``qubes``, which every Qubes VM has and this machine may not."""
    passwd, group = qube.path("/etc/passwd"), qube.path("/etc/group")
    users = [line for line in passwd.read_text().splitlines() if not line.startswith("user:")]
    groups = [line for line in group.read_text().splitlines() if not line.startswith(("user:", "qubes:"))]
    # First, so that they give the numbers' names even if this machine has accounts with the same numbers.
    qube.write("/etc/passwd", "\n".join(["user:x:1000:1000::/home/user:/bin/sh", *users, ""]))
    qube.write("/etc/group", "\n".join(["user:x:1000:", "qubes:x:98:user", *groups, ""]))


def setup_ip(qube: Qube, here: Address, gateway: Address) -> None:
    """What ``setup-ip add eth0`` does in a qube whose netvm has the addresses `gateway`."""
    if qube.path("/run/qubes-service/disable-default-route").exists():
        default4 = default6 = ""
    else:
        default4 = f"route replace to unicast default via {gateway.ip4} dev {UPLINK} onlink"
        default6 = f"route replace to unicast default via {gateway.ip6} dev {UPLINK} onlink"
    qube.ip(f"""
address replace {here.ip4}/32 dev {UPLINK}
address replace {here.ip6}/128 dev {UPLINK} nodad
neighbour replace to {gateway.ip4} dev {UPLINK} lladdr {BACKEND_MAC} nud permanent
neighbour replace to {gateway.ip6} dev {UPLINK} lladdr {BACKEND_MAC} nud permanent
link set dev {UPLINK} group 1 up
route replace to unicast {gateway.ip4} dev {UPLINK} scope link
route replace to unicast {gateway.ip6} dev {UPLINK} scope link
{default4}
{default6}""")
    protected = qube.path("/etc/qubes/protected-files.d")
    lists = [path.read_text() for path in protected.iterdir()] if protected.is_dir() else []
    if not any("/etc/resolv.conf" in text.split() for text in lists):
        qube.write("/etc/resolv.conf", "".join(f"nameserver {dns}\n" for dns in VIRTUAL_DNS))
