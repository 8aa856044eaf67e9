# SPDX-License-Identifier: BSD-2-Clause
"""The asyncio side of the protocol machines: every effect becomes a call, every occurrence an event.

A driver decides nothing about the protocol. To the machine, timer and data plane of `driving.base` the client's adds
one line of jobs for what takes time (look-ups, connecting, the host's methods), so that those never overlap and follow
each other as the machine asked for them. What is not wanted any more is called off, and its late answer is not
given to the machine. The server's adds the listening sockets.

`ClientDriver` and `ServerDriver` end with the machine's `Stop`; whatever happens, data plane and host are closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from qubes_miragevpn.base.errors import MirageError, MisuseError, PeerError, SystemRefused
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import PointServer, Proto, ServerConfig, TlsCryptV2Server, TunnelSettings
from qubes_miragevpn.dataplane.interface import (
    DataPlane,
    Floated,
    Link,
    PlaneEvent,
    SockAddr,
)
from qubes_miragevpn.protocol.contract import (
    NOWHERE,
    AskChallenge,
    AskCredentials,
    AssignAddresses,
    AwaitTransport,
    ChallengeAnswered,
    ChallengeRefused,
    ChangeSettings,
    CloseTransport,
    Command,
    CredentialsGiven,
    CredentialsRefused,
    DismissPeer,
    Effect,
    ForgetClientKey,
    ForgetLogin,
    LoginAnswered,
    NameResolved,
    OpenTransport,
    OpenUrl,
    Reconfigured,
    ResolutionFailed,
    Resolve,
    SendInner,
    Stop,
    StopKind,
    Transmit,
    TransportDown,
    TransportUp,
    TunnelChanged,
    TunnelDown,
    TunnelUp,
    UserCommand,
    VerifyClientKey,
    VerifyLogin,
)
from qubes_miragevpn.protocol.serving.peer import place_of, tag
from qubes_miragevpn.protocol.serving.registry import MAX_CANDIDATES
from qubes_miragevpn.protocol.wire.authfailed import MAX_URL
from qubes_miragevpn.runtime.driving.base import Driver, Machine, log
from qubes_miragevpn.runtime.driving.host import TunnelHost
from qubes_miragevpn.runtime.driving.jobs import Jobs
from qubes_miragevpn.runtime.operating.logins.clientkeys import ClientKeys
from qubes_miragevpn.runtime.operating.logins.judge import Judge
from qubes_miragevpn.runtime.operating.roster import Member, Roster
from qubes_miragevpn.runtime.sockets.proxies.refusal import LoginRefused
from qubes_miragevpn.runtime.sockets.reach import open_way
from qubes_miragevpn.runtime.sockets.transports import (
    Acceptor,
    SocketOptions,
    allow_files,
    await_client,
    open_listeners,
)

Place = tuple[Proto, SockAddr]
"""Where a server listens, as it turned out."""

OTHER_FILES = 256
"""What a server opens besides connections: sockets, TUN, what it reads and writes, pipes of the programs that judge."""

HOST_TIMEOUT = 30.0  # seconds that bringing the tunnel's interface up may take
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before trying again after this machine failed, doubling


class ClientDriver(Driver):
    """Runs a client machine on `host`."""

    def __init__(
        self, machine: Machine, plane: DataPlane, host: TunnelHost, sockets: SocketOptions | None = None
    ) -> None:
        super().__init__(machine, plane)
        self._host = host
        self._sockets = sockets or SocketOptions()
        self._tun_attached = False
        self._failures = 0  # of this machine, in a row
        self._again: asyncio.TimerHandle | None = None

    async def run(self) -> Stop:
        """Connect, and go on until the machine ends; return why it did.

        Raises whatever is a bug; then, and when cancelled, everything is closed as well.
        """
        self._begin()
        self._jobs = Jobs(self._fail)
        try:
            self._feed(UserCommand(Command.CONNECT))
            return await self._until_end()
        finally:
            self._cancel_again()
            self._finish()
            await asyncio.shield(self._leave())

    async def _leave(self) -> None:
        await self._jobs.close()
        await self._quietly(self._host.close())

    def _carry_out(self, effect: Effect) -> None:
        if self._carry_out_common(effect):
            if isinstance(effect, CloseTransport):
                self._jobs.drop(("open", effect.link))
                self._jobs.drop("challenge")  # whoever asked is gone
            return
        match effect:
            case Resolve():
                self._jobs.drop("resolve")
                self._jobs.add("resolve", lambda: self._resolve(effect))
            case OpenTransport():
                self._jobs.add(("open", effect.link), lambda: self._open(effect))
            case AwaitTransport():
                self._jobs.add(("open", effect.link), lambda: self._await(effect))
            case AskCredentials():
                self._jobs.drop("credentials")
                self._jobs.add("credentials", lambda: self._ask(effect))
            case AskChallenge():
                self._jobs.drop("challenge")
                self._jobs.add("challenge", lambda: self._ask_challenge(effect))
            case OpenUrl(url):
                log.warning("the server asks you to log in with a browser, at %s", printable(url, MAX_URL))
            case TunnelUp(settings, summary):
                self._cancel_again()  # the machine began anew by itself
                self._jobs.add("up", lambda: self._up(settings, summary))
            case TunnelChanged(settings):
                self._jobs.add("up", lambda: self._up(settings, "settings changed"))
            case TunnelDown(reason):
                self._cancel_again()
                self._detach_tun()
                self._jobs.drop("up", running=False)
                self._jobs.add("down", lambda: self._down(reason))
            case _:
                raise MisuseError(f"a client machine asked for {type(effect).__name__}")

    def _occurred(self, event: PlaneEvent) -> None:
        super()._occurred(event)
        if isinstance(event, Floated) and not self._ended.done():
            address = ip_address(event.endpoint[0].partition("%")[0])
            log.warning("the other end is at %s now", address)
            self._jobs.add("floated", lambda: self._quietly(self._host.before_transport(address)))

    # --- jobs

    async def _resolve(self, effect: Resolve) -> None:
        log.info("resolving %s", printable(effect.host))
        try:
            addresses = await self._host.resolve(effect.host, effect.family)
        except (OSError, PeerError) as error:
            self._feed(ResolutionFailed(effect.request, _reason(error)))
        except SystemRefused as error:
            self._refused(error)
        else:
            self._feed(NameResolved(effect.request, tuple(addresses)))

    async def _open(self, effect: OpenTransport) -> None:
        try:
            await self._host.connecting(f"{effect.address} port {effect.port}/{effect.proto.value}")
            await self._host.before_transport(effect.address)
            # a host that marks (a VPN qube) has its reasons, and they outrank the profile's
            options = replace(self._sockets, mark=self._host.mark or self._sockets.mark)
            way = await open_way(effect, options, self._host.resolve)
        except SystemRefused as error:
            self._refused(error)
        except (OSError, MirageError) as error:
            self._feed(TransportDown(effect.link, _reason(error), isinstance(error, LoginRefused)))
        else:
            self._plane.attach_link(effect.link, way.sock, way.remote if way.connected else None, way.envelope)
            self._links.add(effect.link)
            self._feed(TransportUp(effect.link, way.remote))

    async def _await(self, effect: AwaitTransport) -> None:
        try:
            sock, remote = await await_client(effect.listen, self._sockets, effect.only)
        except SystemRefused as error:
            self._refused(error)
            return
        except (OSError, MirageError) as error:
            self._feed(TransportDown(effect.link, _reason(error)))
            return
        if remote is not None:
            await self._quietly(self._host.before_transport(ip_address(remote[0].partition("%")[0])))
        self._plane.attach_link(effect.link, sock, remote)
        self._links.add(effect.link)
        self._feed(TransportUp(effect.link, NOWHERE if remote is None else remote))

    async def _ask(self, effect: AskCredentials) -> None:
        try:
            if effect.proxy:
                given = await self._host.proxy_credentials(effect.proxy, effect.again)
            else:
                given = await self._host.credentials(effect.again)
        except (OSError, MirageError) as error:
            self._feed(CredentialsRefused(_reason(error)))
            return
        if given is None:
            self._feed(CredentialsRefused("no user name and password to be had"))
        else:
            self._feed(CredentialsGiven(given.username, given.password))

    async def _ask_challenge(self, effect: AskChallenge) -> None:
        log.info("the server asks: %s", printable(effect.text, 500))
        if not effect.wanted:
            self._feed(ChallengeAnswered(effect.request, Secret(b"")))
            return
        try:
            answer = await self._host.challenge(effect.text, echo=effect.echo)
        except (OSError, MirageError) as error:
            self._feed(ChallengeRefused(effect.request, _reason(error)))
            return
        if answer is None:
            self._feed(ChallengeRefused(effect.request, f"nobody is there to be asked: {effect.text}"))
        else:
            self._feed(ChallengeAnswered(effect.request, answer))

    async def _up(self, settings: TunnelSettings, summary: str) -> None:
        # The host may open its TUN anew, under the same number: it is attached anew each time.
        self._detach_tun()
        try:
            async with asyncio.timeout(HOST_TIMEOUT):
                tun = await self._host.up(settings)
        except SystemRefused as error:
            await self._quietly(self._host.down(_reason(error)))
            self._refused(error)
        except (OSError, MirageError) as error:
            reason = f"the tunnel's interface cannot be set up: {_reason(error)}"
            await self._quietly(self._host.down(reason))
            self._start_over(reason)
        else:
            self._plane.attach_tun(tun)
            self._tun_attached = True
            self._failures = 0
            log.info("up: %s", printable(f"{_addresses(settings)}; {summary}", 500))

    async def _down(self, reason: str) -> None:
        self._detach_tun()  # an `up` that was under way has attached it since
        asked = self._forced is not None
        log.log(logging.INFO if asked else logging.WARNING, "down: %s", printable(reason))
        await self._quietly(self._host.down(reason))

    async def _quietly(self, ending: Awaitable[None]) -> None:
        """Await one of the host's clean-up methods; what it could not do is logged and does not stop us."""
        try:
            await ending
        except (OSError, MirageError) as error:
            log.error("not cleaned up: %s", _reason(error))

    # --- when this machine fails

    def _refused(self, error: SystemRefused) -> None:
        """Trying again cannot help: say goodbye to the server and end."""
        stop = Stop(StopKind.SYSTEM, str(error))
        self._carry_out_goodbye()
        self._end(stop)

    def _carry_out_goodbye(self) -> None:
        """Let the machine tell its peer that we leave, without taking the reason of the end from it."""
        try:
            for effect in self._machine.handle(UserCommand(Command.DISCONNECT), self._loop.time()):
                if isinstance(effect, Transmit | SendInner | CloseTransport):
                    self._carry_out_common(effect)
        except Exception as error:
            self._fail(error)

    def _start_over(self, reason: str) -> None:
        """Restart the machine, later each time in a row, so that a fault that stays does not spin."""
        pause = min(FIRST_PAUSE * 2 ** min(self._failures, 10), LONGEST_PAUSE)
        self._failures += 1
        log.error("%s; trying again in %g s", printable(reason, 500), pause)
        self._cancel_again()
        self._again = self._loop.call_later(pause, self.command, Command.RECONNECT)

    def _cancel_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _tun_failed(self, reason: str) -> None:
        if not self._tun_attached:
            return
        self._detach_tun()
        self._jobs.drop("up", running=False)
        self._jobs.add("close", lambda: self._quietly(self._host.close()))
        self._start_over(f"the TUN device failed: {reason}")

    def _detach_tun(self) -> None:
        if self._tun_attached:
            self._tun_attached = False
            self._plane.detach_tun()


class ServerDriver(Driver):
    """Runs a server machine on the TUN `tun_fd`, which its owner opens, sets up and closes."""

    def __init__(
        self, machine: Machine, plane: DataPlane, config: ServerConfig | PointServer, tun_fd: int, folder: Path = Path()
    ) -> None:
        """`folder`: from where the paths in `config` count."""
        super().__init__(machine, plane)
        self._judge: Judge | None = None
        if isinstance(config, ServerConfig) and config.login is not None:
            self._judge = Judge(config.login, folder, self._feed)
        wrap = config.common.wrap
        self._key_judge: ClientKeys | None = None
        if isinstance(wrap, TlsCryptV2Server) and wrap.verify:
            self._key_judge = ClientKeys(wrap.verify, folder, self._feed)
        self._config = config
        self._folder = folder
        self._tun_fd = tun_fd
        self._acceptor: Acceptor | None = None
        self._accepted: set[Link] = set()
        self._next_link = 0
        self._served: dict[int, AssignAddresses] = {}
        self._since: dict[int, int] = {}  # seconds of the wall clock

    async def run(self, listening: Callable[[tuple[Place, ...]], None] | None = None) -> Stop:
        """Serve until the machine ends (`command(Command.DISCONNECT)`); `listening` is told where.

        Raises ConfigError or SystemRefused if one of its ports cannot be had: then none is used.
        """
        socks = open_listeners(self._config.places, SocketOptions.of(self._config.common))
        try:
            self._begin()
        except BaseException:
            for sock in socks:
                sock.close()
            raise
        try:
            self._plane.attach_tun(self._tun_fd)
            places = zip(self._config.places, socks, strict=True)
            where = tuple((place.proto, sock.getsockname()) for place, sock in places)
            streams = []
            for link, (proto, _) in enumerate(where):  # a place's number is its link's
                if proto is Proto.UDP:
                    self._attach(link, socks[link], None)
                else:
                    streams.append(socks[link])
            self._next_link = len(socks)
            limit = _connections(self._config) if streams else 1
            self._acceptor = Acceptor(streams, limit, self._connection)
            if listening is not None:
                listening(where)
            self._arm()
            return await self._until_end()
        finally:
            if self._acceptor is not None:
                self._acceptor.close()
            if self._judge is not None:
                await self._judge.close()
            if self._key_judge is not None:
                await self._key_judge.close()
            self._finish()

    def roster(self, title: str) -> Roster:
        """Who is connected; `title` names the program."""
        now = int(time.time())
        return Roster(title, now, tuple(self._member(each) for each in self._served.values()))

    @property
    def size(self) -> int:
        """How many are connected."""
        return len(self._served)

    def _member(self, each: AssignAddresses) -> Member:
        counters = self._plane.counters(each.peer)
        inner = {address.version: str(address) for address in each.addresses}
        return Member(
            number=each.peer,
            name=each.name,
            username=each.username,
            endpoint=place_of(each.endpoint),
            ipv4=inner.get(4, ""),
            ipv6=inner.get(6, ""),
            bytes_in=counters.bytes_in,
            bytes_out=counters.bytes_out,
            since=self._since[each.peer],
            cipher=each.cipher,
        )

    def dismiss(self, number: int, message: str) -> bool:
        """Send a client away with this control message; False if there is none of that number."""
        if number not in self._served:
            return False
        self._feed(DismissPeer(number, message))
        return True

    def update(self, number: int | None, options: tuple[str, ...]) -> int:
        """Change what clients were pushed: this one, or (None) all; to how many that take it."""
        asked = self._served.values() if number is None else filter(None, [self._served.get(number)])
        those = [each.peer for each in asked if each.updatable]
        for peer in those:
            self._feed(ChangeSettings(peer, options))
        return len(those)

    def reconfigure(self, config: ServerConfig) -> None:
        """The configuration is another from now on, in what may change (`protocol.serving.reload`)."""
        self._config = config
        if self._judge is not None and config.login is not None:
            self._judge.use(config.login, self._folder)
        if self._acceptor is not None:
            self._acceptor.limit = _connections(config)
        self._feed(Reconfigured(config))

    def _attach(self, link: Link, sock: socket.socket, remote: SockAddr | None) -> None:
        self._plane.attach_link(link, sock, remote)
        self._links.add(link)

    def _connection(self, sock: socket.socket, remote: SockAddr) -> None:
        link, self._next_link = self._next_link, self._next_link + 1
        self._attach(link, sock, remote)
        self._accepted.add(link)
        self._feed(TransportUp(link, remote))

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case AssignAddresses(peer, name, addresses):
                self._plane.set_addresses(peer, addresses, effect.networks)
                self._served[peer] = effect
                self._since.setdefault(peer, int(time.time()))
                who = tag(effect.endpoint, name)
                log.debug("%s has %s", who, ", ".join(map(str, addresses)) or "no address", extra={"client": who})
            case VerifyLogin() if self._judge is not None:
                self._judge.ask(effect)
            case LoginAnswered() if self._judge is not None:
                self._judge.answered(effect)
            case ForgetLogin(peer, attempt) if self._judge is not None:
                self._judge.forget(peer, attempt)
            case VerifyClientKey() if self._key_judge is not None:
                self._key_judge.ask(effect)
            case ForgetClientKey(peer) if self._key_judge is not None:
                self._key_judge.forget(peer)
            case _ if not self._carry_out_common(effect):
                raise MisuseError(f"a server machine asked for {type(effect).__name__}")

    def _remove_peer(self, peer: int) -> None:
        self._served.pop(peer, None)
        self._since.pop(peer, None)
        super()._remove_peer(peer)

    def _close_link(self, link: Link) -> None:
        super()._close_link(link)
        if link in self._accepted and self._acceptor is not None:
            self._accepted.remove(link)
            self._acceptor.released()

    def _tun_failed(self, reason: str) -> None:
        self._fail(SystemRefused(f"the TUN device failed: {reason}", "start the server again"))


def _reason(error: Exception) -> str:
    """What `error` says, in one printable line."""
    if isinstance(error, TimeoutError) and not error.errno:
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror)
    return printable(str(error) or type(error).__name__, 500)


def _connections(config: ServerConfig | PointServer) -> int:
    """So many at once: the machine bounds those who have not logged in, and must hear newcomers to make room for them.

    Of those who have there may be twice as many as are connected: dead ones wait for their timeout. Each is two open
    files, its socket and the data plane's; if the machine does not let us have as many, there are fewer connections.
    """
    wanted = 2 * config.max_clients + 2 * MAX_CANDIDATES
    files = allow_files(2 * wanted + OTHER_FILES)
    if files < 2 * wanted + OTHER_FILES:
        log.warning("only %d files may be open at once (ulimit -n): so fewer connections are taken by TCP", files)
    return max(min(wanted, (files - OTHER_FILES) // 2), 1)


def _addresses(settings: TunnelSettings) -> str:
    return ", ".join(str(each) for each in (settings.ipv4, settings.ipv6) if each is not None) or "no address"
