# SPDX-License-Identifier: BSD-2-Clause
"""User name and password for the proxies of a client whose profile leaves them to the user.

Pure policy. A proxy is asked for before the transport is opened where it is told them at once (basic, SOCKS5), and
otherwise when it has refused to go on without. What was said is good for every later attempt by the same proxy;
with ``auth-nocache`` for one. The question names the proxy as the profile does; nothing in it comes from the network.
"""

from __future__ import annotations

import re
from dataclasses import replace

from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import ClientConfig, Credentials, HttpProxy, Proxy, Remote

MAX_LENGTH = 255  # bytes of each; RFC 1929 has one byte for the length
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


class ProxyLogins:
    """See the module's docstring."""

    def __init__(self, config: ClientConfig) -> None:
        self._nocache = config.auth_nocache
        self._interact = config.auth_retry == "interact"
        self._said: dict[tuple[str, int, bool], Credentials] = {}
        self._shown = False  # user name and password went with the transport that is being opened

    def wanted(self, remote: Remote) -> bool:
        """Whether the user must be asked before the way to `remote` is opened."""
        proxy = remote.proxy
        if proxy is None or not proxy.asks or _key(proxy) in self._said:
            return False
        return not isinstance(proxy, HttpProxy) or proxy.eager

    def given(self, remote: Remote, credentials: Credentials) -> str:
        """Take what the user said for the proxy of `remote`; return why it cannot be used, or ""."""
        proxy = remote.proxy
        assert proxy is not None
        name, password = credentials.username.encode("utf-8", "surrogateescape"), credentials.password.reveal()
        if not 0 < len(name) <= MAX_LENGTH or not 0 < len(password) <= MAX_LENGTH:
            return f"user name and password for a proxy have from 1 to {MAX_LENGTH} bytes each"
        if _CONTROL.search(name + password):
            return "user name and password for a proxy hold no control characters"
        if isinstance(proxy, HttpProxy) and "basic" in proxy.methods and b":" in name:
            return "a user name for an HTTP proxy cannot hold ':'"
        self._said[_key(proxy)] = credentials
        return ""

    def show(self, remote: Remote) -> Remote:
        """`remote` as it is opened: its proxy with what the user said for it."""
        proxy = remote.proxy
        self._shown = False
        if proxy is None or not proxy.asks or (said := self._said.get(_key(proxy))) is None:
            return remote
        self._shown = True
        if self._nocache:
            del self._said[_key(proxy)]
        return replace(remote, proxy=replace(proxy, credentials=said))

    def refused(self, remote: Remote) -> bool:
        """The proxy of `remote` wants a login, or another one; return whether the user is (once more) asked for it."""
        assert remote.proxy is not None
        self._said.pop(_key(remote.proxy), None)
        return self._interact or not self._shown


def describe(remote: Remote) -> str:
    """The proxy of `remote` as a question names it."""
    proxy = remote.proxy
    assert proxy is not None
    kind = "HTTP" if isinstance(proxy, HttpProxy) else "SOCKS"
    return f"the {kind} proxy {printable(proxy.host)} port {proxy.port}"


def _key(proxy: Proxy) -> tuple[str, int, bool]:
    return proxy.host, proxy.port, isinstance(proxy, HttpProxy)
