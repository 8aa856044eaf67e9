# SPDX-License-Identifier: BSD-2-Clause
"""The TLS sessions of a role, one after the other: what is revoked is read again for each, as OpenVPN does.

Reading is the configuration's own function, made of what the loader was given. What cannot be read or used leaves
things as they were, with a word to the operator: a list that is gone must not have revoked certificates accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.model import Common
from qubes_miragevpn.protocol.control.tls import TlsEndpoint, make_context


class Endpoints:
    """Makes `TlsEndpoint`s; `warn` is told in words of lists that cannot be used."""

    def __init__(self, common: Common, *, server: bool, warn: Callable[[str], None]) -> None:
        """Raises `ConfigError` when a certificate or key is unusable."""
        self._common = common
        self._server = server
        self._warn = warn
        self._warned = ""
        self._policy = common.peer
        self._context = make_context(common.identity, common.peer, common.tls, common.choices, server=server)

    def new(self) -> TlsEndpoint:
        """A session that has yet to begin."""
        self._renew()
        return TlsEndpoint(self._context, self._policy, server=self._server)

    def _renew(self) -> None:
        if self._policy.reread is None:
            return
        try:
            revoked = self._policy.reread()
            if revoked == (self._policy.crl_pem, self._policy.revoked_serials):
                self._warned = ""
                return
            policy = replace(self._policy, crl_pem=revoked[0], revoked_serials=revoked[1])
            common = self._common
            self._context = make_context(common.identity, policy, common.tls, common.choices, server=self._server)
        except ConfigError as error:
            if str(error) != self._warned:
                self._warned = str(error)
                self._warn(f"what was revoked before counts still: {error}")
            return
        self._policy, self._warned = policy, ""
