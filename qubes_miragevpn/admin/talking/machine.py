# SPDX-License-Identifier: BSD-2-Clause
"""The seam to qubesadmin, as narrow as can be: `Qubes()`, its `qubesd_call` and `run_service`, its errors.

Everything that this tool asks of the Admin API passes through `Machine.call` as bytes, and only if `talking.allowed`
has a row for it. qubesadmin takes it to qubesd's socket in dom0, and elsewhere to `qrexec-client-vm`; this module
does not care which. dom0's answers are trusted but checked for form; those of qubes never come this way, except as a
process whose output `talking.service` bounds.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qubes_miragevpn.admin.failure import Failure, NotFound
from qubes_miragevpn.admin.talking.allowed import About, find
from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.base.text import printable

DOM0 = "dom0"

_WHERE = "dom0's log (journalctl) says more"
_VERSION = "this is written for Qubes 4.2 and 4.3; look for a newer version of qubes-miragevpn"

_ARGUMENT = re.compile(r"\A[A-Za-z0-9+._-]*\Z")  # what qrexec lets through unchanged
_PROPERTY = re.compile(rb"\Adefault=(True|False) type=(str|bool|int|vm|label) (.*)\Z", re.DOTALL)
_QUBE = re.compile(r"\A([A-Za-z][A-Za-z0-9_.-]*) class=(\w+) state=(\w+)(?: .*)?\Z")


@dataclass(frozen=True)
class Listed:
    """A qube in `admin.vm.List`: its class (AppVM and so on), and its state (Running, Halted and so on)."""

    klass: str
    state: str


class NoFeature(NotFound):
    """The qube has not got that feature."""


class Machine:
    """dom0's side, for one command of the tool."""

    def __init__(self, app: Any, errors: Any, command: str) -> None:
        """`app` is a `qubesadmin.Qubes()`, `errors` the module `qubesadmin.exc`."""
        self._app = app
        self._errors = errors
        self._command = command
        self.in_dom0 = app.qubesd_connection_type == "socket"

    @classmethod
    def connect(cls, command: str) -> Machine:
        """The machine that we run on; raises `Failure`."""
        try:
            import qubesadmin
            import qubesadmin.exc
        except ImportError:
            raise Failure(
                ExitCode.SYSTEM,
                "qubesadmin is not installed: this is neither dom0 nor a management qube",
                "in a management qube's template: install qubes-core-admin-client",
            ) from None
        return cls(qubesadmin.Qubes(), qubesadmin.exc, command)

    def call(self, method: str, argument: str, about: About, qube: str, payload: bytes | None = None) -> bytes:
        """The answer to an Admin API call; raises `NotFound`, `Failure`."""
        find(self._command, method, argument, about, in_dom0=self.in_dom0)
        if not _ARGUMENT.match(argument):
            raise MisuseError(f"{method} with an argument that qrexec would change")
        try:
            answer: bytes = self._app.qubesd_call(qube, method, argument or None, payload)
        except self._errors.QubesException as error:
            raise self._failure(error, f"{method}{'+' if argument else ''}{argument}", qube) from None
        except OSError as error:
            raise Failure(ExitCode.SYSTEM, f"dom0 cannot be asked: {error.strerror or error}", _WHERE) from None
        return answer

    def _failure(self, error: Exception, call: str, qube: str) -> Failure:
        if isinstance(error, self._errors.QubesFeatureNotFoundError):
            return NoFeature(f"{qube} has no such feature ({call})", f"qvm-features {qube}")
        if isinstance(error, KeyError):  # what qubesadmin raises for qubes and labels that are not there
            return NotFound(
                f"{printable(str(error), 300)} ({call} for {qube})", "qvm-ls lists the qubes that there are"
            )
        if isinstance(error, self._errors.QubesDaemonAccessError):
            return Failure(
                ExitCode.REFUSED,
                f"dom0 refused {call} for {qube}, or there is no such qube",
                "dom0's log (journalctl) says why"
                if self.in_dom0
                else "have dom0's policy allow it; `qvm-miragevpn policy` prints the lines",
            )
        if isinstance(error, self._errors.QubesDaemonCommunicationError):
            return Failure(ExitCode.SYSTEM, f"qubesd: {printable(str(error), 300)}", "is qubesd running?")
        return Failure(ExitCode.REFUSED, f"{call} for {qube}: {printable(str(error), 300)}", _WHERE)

    def start_service(self, service: str, argument: str, about: About, qube: str) -> subprocess.Popen[bytes]:
        """A qrexec call with pipes for its input and output; in dom0 a qube that is halted is started for it."""
        find(self._command, service, argument, about, in_dom0=self.in_dom0)
        if self.in_dom0:
            find(self._command, "admin.vm.Start", "", about, in_dom0=True)
        if not _ARGUMENT.match(argument):
            raise MisuseError(f"{service} with an argument that qrexec would change")
        try:
            process: subprocess.Popen[bytes] = self._app.run_service(
                qube, f"{service}+{argument}", stderr=subprocess.DEVNULL
            )
        except self._errors.QubesException as error:
            raise self._failure(error, service, qube) from None
        except OSError as error:
            raise Failure(ExitCode.SYSTEM, f"qrexec cannot be used: {error.strerror or error}", _WHERE) from None
        return process

    # --- what is asked often ------------------------------------------------------------------------------

    def qubes(self) -> dict[str, Listed]:
        """Every qube of the system, dom0 included."""
        return _listed(self.call("admin.vm.List", "", About.DOM0, DOM0))

    def state(self, vpn: str) -> str:
        """The power state of the VPN qube; raises `NotFound`."""
        found = _listed(self.call("admin.vm.List", "", About.VPN, vpn)).get(vpn)
        if found is None:
            raise NotFound(f"there is no qube {vpn}", f"qvm-miragevpn create {vpn}, or --vpn NAME")
        return found.state

    def get(self, name: str, about: About, qube: str) -> str:
        """A property of a qube as text ("" for none, "True" and "False"); raises `Failure`."""
        return self.get_chosen(name, about, qube)[0]

    def get_chosen(self, name: str, about: About, qube: str) -> tuple[str, bool]:
        """The same, and whether somebody chose it: it is not Qubes' default; raises `Failure`."""
        return _property(self.call("admin.vm.property.Get", name, about, qube))

    def get_global(self, name: str) -> str:
        """A property of the system."""
        return _property(self.call("admin.property.Get", name, About.DOM0, DOM0))[0]

    def set(self, name: str, about: About, qube: str, value: str) -> None:
        """Set a property of a qube; raises `Failure`."""
        self.call("admin.vm.property.Set", name, about, qube, value.encode("ascii"))

    def feature(self, name: str, about: About, qube: str) -> str | None:
        """A feature of a qube, None if it has not got it; raises `Failure`."""
        try:
            return self.call("admin.vm.feature.Get", name, about, qube).decode("ascii", "replace")
        except NoFeature:
            return None

    def has_tag(self, name: str, vpn: str) -> bool:
        """Whether a qube bears a tag; raises `Failure`."""
        return self.call("admin.vm.tag.Get", name, About.VPN, vpn) == b"1"

    def netvms(self, qubes: Mapping[str, Listed]) -> dict[str, str]:
        """The netvm of each qube, "" for none."""
        return {
            name: self.get("netvm", About.ANY, name) for name, each in sorted(qubes.items()) if each.klass != "AdminVM"
        }


def _listed(answer: bytes) -> dict[str, Listed]:
    found = {}
    for line in answer.decode("ascii", "replace").splitlines():
        match = _QUBE.match(line)
        if match is None:
            raise Failure(ExitCode.SYSTEM, "qubesd's list of qubes is not understood", _VERSION)
        found[match[1]] = Listed(match[2], match[3])
    return found


def _property(answer: bytes) -> tuple[str, bool]:
    match = _PROPERTY.match(answer)
    if match is None:
        raise Failure(ExitCode.SYSTEM, "qubesd's answer about a property is not understood", _VERSION)
    return match[3].decode("utf-8", "replace"), match[1] == b"False"
