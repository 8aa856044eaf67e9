# SPDX-License-Identifier: BSD-2-Clause
"""The one list of the calls that this tool makes: of the Admin API, and of qrexec services.

`talking.machine` makes no call that has no row here, and `policy` prints what a management qube needs from the same
rows. So the tool cannot do more than its policy says, nor the policy allow more than the tool does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from qubes_miragevpn.base.errors import MisuseError


class About(Enum):
    """Whom a call is about; decides the destination of its line in the policy."""

    DOM0 = "dom0"  # the system as a whole
    VPN = "the VPN qube"
    CLIENT = "the qubes that are attached and detached"
    TEMPLATE = "the VPN qube's template"
    ANY = "every qube"  # reading who uses whom


@dataclass(frozen=True)
class Call:
    """A row: an Admin API method with its argument, or a qrexec service ("*": arguments differ from call to call).

    `commands` need it. `template`: the argument is the template's name.
    """

    method: str
    argument: str
    about: About
    commands: frozenset[str]
    template: bool = False

    @property
    def is_admin(self) -> bool:
        """Whether dom0 answers it, and not the qube that it is about."""
        return self.method.startswith("admin.")


def _row(method: str, about: About, commands: str, argument: str = "", *, template: bool = False) -> Call:
    return Call(method, argument, about, frozenset(commands.split()), template)


_ASKING = "import status log profiles delete switch connect disconnect remove-tunnel credentials answer"

CALLS = (
    # --- looking ---
    _row("admin.vm.List", About.DOM0, "create remove attach detach doctor"),
    _row("admin.vm.List", About.VPN, f"create remove attach detach doctor {_ASKING}"),
    _row("admin.property.Get", About.DOM0, "create", "default_template"),
    _row("admin.property.Get", About.DOM0, "create", "default_netvm"),
    _row("admin.property.Get", About.DOM0, "doctor", "clockvm"),
    _row("admin.vm.tag.Get", About.VPN, "create remove attach detach doctor", "miragevpn"),
    _row("admin.vm.property.Get", About.ANY, "create remove attach detach doctor", "netvm"),
    _row("admin.vm.property.Get", About.ANY, "create attach doctor", "provides_network"),
    _row("admin.vm.property.Get", About.CLIENT, "attach detach", "ip"),
    _row("admin.vm.property.Get", About.ANY, "doctor", "default_dispvm"),
    _row("admin.vm.property.Get", About.VPN, "create attach doctor", "template"),
    _row("admin.vm.property.Get", About.VPN, "create doctor", "autostart"),
    _row("admin.vm.property.Get", About.VPN, "create", "memory"),
    _row("admin.vm.property.Get", About.VPN, "create", "maxmem"),
    _row("admin.vm.feature.Get", About.VPN, "create attach doctor", "service.miragevpn"),
    _row("admin.vm.feature.Get", About.VPN, "create", "servicevm"),
    _row("admin.vm.feature.Get", About.VPN, "create", "vm-config.miragevpn-profile"),
    _row("admin.vm.feature.Get", About.TEMPLATE, "create attach doctor", "supported-service.miragevpn"),
    _row("admin.vm.firewall.Get", About.VPN, "create"),
    _row("admin.vm.device.pci.Assigned", About.ANY, "doctor"),
    _row("admin.vm.device.pci.List", About.ANY, "doctor"),  # the same before Qubes 4.3
    # --- changing ---
    _row("admin.vm.Create.AppVM", About.DOM0, "create", template=True),
    _row("admin.vm.tag.Set", About.VPN, "create", "miragevpn"),
    _row("admin.vm.feature.Set", About.VPN, "create", "service.miragevpn"),
    _row("admin.vm.feature.Set", About.VPN, "create", "servicevm"),
    _row("admin.vm.feature.Set", About.VPN, "create", "vm-config.miragevpn-profile"),
    _row("admin.vm.property.Set", About.VPN, "create", "memory"),
    _row("admin.vm.property.Set", About.VPN, "create", "maxmem"),
    _row("admin.vm.property.Set", About.VPN, "create", "provides_network"),
    _row("admin.vm.property.Set", About.VPN, "create", "netvm"),
    _row("admin.vm.property.Set", About.VPN, "create", "autostart"),
    _row("admin.vm.property.Set", About.CLIENT, "attach detach", "netvm"),
    _row("admin.vm.firewall.Set", About.VPN, "create"),
    _row("admin.vm.Start", About.VPN, "create"),
    _row("admin.vm.Shutdown", About.VPN, "remove"),
    _row("admin.vm.Remove", About.VPN, "remove"),
    # --- asking the VPN qube ---
    _row("miragevpn.Status", About.VPN, "create attach doctor", "*"),
    _row("miragevpn.Details", About.VPN, "status attach", "*"),
    _row("miragevpn.Events", About.VPN, "status", "*"),
    _row("miragevpn.Log", About.VPN, "log", "*"),
    _row("miragevpn.Profiles", About.VPN, "profiles", "*"),
    _row("miragevpn.ImportProfile", About.VPN, "create import", "*"),
    _row("miragevpn.RemoveProfile", About.VPN, "delete", "*"),
    _row("miragevpn.Switch", About.VPN, "create switch attach", "*"),
    _row("miragevpn.Connect", About.VPN, "connect", "*"),
    _row("miragevpn.Disconnect", About.VPN, "disconnect", "*"),
    _row("miragevpn.RemoveTunnel", About.VPN, "remove-tunnel", "*"),
    _row("miragevpn.Assign", About.VPN, "attach detach", "*"),
    _row("miragevpn.SetCredentials", About.VPN, "credentials", "*"),
    _row("miragevpn.Answer", About.VPN, "answer", "*"),
)

DOM0_ONLY = (
    _row("qubes.VMExec", About.ANY, "create import", "*"),  # reading QUBE:PATH
    _row("admin.vm.Start", About.ANY, "create import"),  # so that QUBE can be read from
    _row("admin.vm.Start", About.VPN, f"attach detach doctor {_ASKING}"),  # qubesadmin asks so before any service
)
"""Calls that are made in dom0 alone; the first from a management qube would be full control over other qubes."""

COMMANDS = sorted(frozenset().union(*(row.commands for row in CALLS)))


def find(command: str, method: str, argument: str, about: About, *, in_dom0: bool) -> Call:
    """The row that lets `command` make this call; raises `MisuseError` if there is none."""
    for row in CALLS + (DOM0_ONLY if in_dom0 else ()):
        named = row.template or row.argument in ("*", argument)
        if named and row.method == method and row.about is about and command in row.commands:
            return row
    raise MisuseError(f"{command} makes a call that is not in the list: {method}+{argument} about {about.value}")
