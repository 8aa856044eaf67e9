# SPDX-License-Identifier: BSD-2-Clause
"""What goes wrong for a person at dom0's terminal: an exit code, what happened, and what to do next."""

from __future__ import annotations

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.base.exitcodes import ExitCode


class Failure(MirageError):
    """`what` went wrong, and the `remedy`; both are printed as they are: untrusted text has been made printable."""

    def __init__(self, code: ExitCode, what: str, remedy: str) -> None:
        super().__init__(f"{what}\n  next: {remedy}")
        self.code = code
        self.what = what
        self.remedy = remedy


class NotFound(Failure):
    """dom0 knows no such qube, feature or label."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(ExitCode.REFUSED, what, remedy)
