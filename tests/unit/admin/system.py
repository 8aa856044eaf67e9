# SPDX-License-Identifier: BSD-2-Clause
"""A qubesd with a state, as small as the Admin API calls of the tool: what one run changes, the next one finds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.unit.admin.dom0 import DENIED, NO_FEATURE, RUNNING, Key

_KINDS = {"netvm": "vm", "template": "vm", "default_dispvm": "vm", "provides_network": "bool", "autostart": "bool"}


@dataclass
class Qube:
    """What qubesd keeps of one."""

    klass: str
    state: str = "Halted"
    properties: dict[str, str] = field(default_factory=dict)
    chosen: set[str] = field(default_factory=set)  # properties that are not at Qubes' default
    features: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    firewall: str = "action=accept\n"
    devices: str = ""


class System:
    """A usual system: sys-net, sys-firewall, a template with the package, a qube named work."""

    def __init__(self) -> None:
        self.qubes: dict[str, Qube] = {"dom0": Qube("AdminVM", "Running")}
        self.settings = {"default_template": "debian-13", "default_netvm": "sys-firewall", "clockvm": "sys-net"}
        self.changes = 0
        self.fails_at = 0  # the number of the call that gets no answer
        self._calls = 0
        self.make("debian-13", klass="TemplateVM").features["supported-service.miragevpn"] = "1"
        self.make("sys-net", provides_network="True", netvm="")
        self.make("sys-firewall", provides_network="True", netvm="sys-net")
        self.make("work", ip="10.137.0.20")

    def make(self, name: str, *, klass: str = "AppVM", state: str = "Halted", **properties: str) -> Qube:
        """A new qube with Qubes' defaults and these properties."""
        defaults = {
            "netvm": "sys-firewall", "provides_network": "False", "autostart": "False", "memory": "400",
            "maxmem": "4000", "template": "debian-13", "default_dispvm": "", "ip": "10.137.0.99",
        }  # fmt: skip
        self.qubes[name] = Qube(klass, state, {**defaults, **properties})
        return self.qubes[name]

    def shown(self) -> str:
        """All of it, to be compared."""
        return repr(
            [
                (name, str(replace(each, tags=set(), chosen=set())), sorted(each.tags), sorted(each.chosen))
                for name, each in sorted(self.qubes.items())
            ]
        )

    def answer(self, key: Key) -> bytes:
        """qubesd's answer."""
        self._calls += 1
        if self._calls == self.fails_at:
            return DENIED
        dest, method, argument, payload = key
        if dest not in self.qubes:
            return b"2\0QubesVMNotFoundError\0\0No such domain: %s\0" + dest.encode() + b"\0"
        if any(word in method for word in ("Set", "Create", "Remove", "Start", "Shutdown")):
            self.changes += 1
        result = self._carried_out(self.qubes[dest], dest, method.removeprefix("admin."), argument, payload)
        return result if isinstance(result, bytes) else b"0\0" + result.encode()

    def _carried_out(self, qube: Qube, dest: str, method: str, argument: str, payload: bytes) -> str | bytes:
        match method:
            case "vm.List":
                shown = self.qubes if dest == "dom0" else {dest: qube}
                return "".join(f"{name} class={each.klass} state={each.state}\n" for name, each in shown.items())
            case "property.Get":
                return f"default=True type=vm {self.settings[argument]}"
            case "vm.property.Get":
                kind = _KINDS.get(argument, "str")
                return f"default={argument not in qube.chosen} type={kind} {qube.properties[argument]}"
            case "vm.property.Set":
                qube.properties[argument] = payload.decode()
                qube.chosen.add(argument)
            case "vm.feature.Get":
                return qube.features.get(argument, NO_FEATURE)
            case "vm.feature.Set":
                qube.features[argument] = payload.decode()
            case "vm.tag.Get":
                return str(int(argument in qube.tags))
            case "vm.tag.Set":
                qube.tags.add(argument)
            case "vm.firewall.Get":
                return qube.firewall
            case "vm.firewall.Set":
                qube.firewall = payload.decode()
            case "vm.device.pci.Assigned":
                return qube.devices
            case "vm.Create.AppVM":
                words = dict(word.split("=") for word in payload.decode().split())
                self.make(words["name"], template=argument)
            case "vm.Remove":
                del self.qubes[dest]
            case "vm.Start":
                if qube.state == "Running":
                    return RUNNING
                qube.state = "Running"
            case "vm.Shutdown":
                qube.state = "Halted"
            case _:
                raise AssertionError(f"not a call of this tool's: {method}")
        return ""
