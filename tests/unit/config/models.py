# SPDX-License-Identifier: BSD-2-Clause
"""Seeded generators of models. What a row fills by itself is filled here by itself as well."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.building.inner import MIN_MTU_IPV6
from qubes_miragevpn.config.model import (
    DEFAULT_DATA_CIPHERS,
    EVERY_NAME,
    Bridge,
    ClientConfig,
    ClientDir,
    Command,
    Common,
    Compression,
    Credentials,
    Dns,
    Family,
    Frequency,
    HttpProxy,
    Identity,
    Landmark,
    LandmarkRoute,
    Listen,
    Local,
    LoginRules,
    NameCheck,
    NameType,
    NoWrap,
    Operating,
    OutputFile,
    Pam,
    PasswordFile,
    PeerPolicy,
    PointClient,
    PointServer,
    Proto,
    PullFilter,
    Remote,
    Route,
    ServerConfig,
    SizeOf,
    SocksProxy,
    StaticChallenge,
    StaticConfig,
    Timers,
    TlsAuth,
    TlsChoices,
    TlsCrypt,
    TlsCryptV2Client,
    TlsCryptV2Server,
    TlsVersions,
    TokenRules,
)
from qubes_miragevpn.config.rows.routing import REDIRECT_FLAGS
from qubes_miragevpn.config.rows.row import NoEffect
from qubes_miragevpn.config.rows.table import SUBJECTS
from tests.unit.config.texts import CERTIFICATE, CLIENT_KEY, KEY, SERVER_KEY, STATIC_KEY
from tests.unit.config.trust import Made

CRL = Made("authority").revoke(5)
WORDS = ("1", "2", "600", "1300", "9000", "tun5", "eth0", "nointeract", "0x51", "10.8.0.1", "fd00::1", "net30", "p2p")
TEXTS = ("name", "a b", 'quo"te', "back\\slash", "it's", "#hash", "C=AA, CN=x", "é", "semi;colon", "-dash")
ENTRY = Credentials("alice", Secret(b"pass # word"))


BY_NEIGHBOUR = (
    Route(ip_network("10.5.0.0/16"), ip_address("10.8.0.7")),
    Route(ip_network("fd05::/32"), ip_address("fd42::7"), 7),
)
INWARD = (Route(ip_network("10.5.0.0/16")), Route(ip_network("fd05::/32"), None, 7))


def filled(source: random.Random, model: Any, *, server: bool) -> Any:
    """`model` with some of the fields that rows fill by themselves changed, by whatever their arguments take."""
    for row in (row for rows in SUBJECTS.values() for row in rows):
        if row.fills is None or row.fills[0] is not type(model) or source.random() < 0.5:
            continue
        fate = row.server if server else row.client
        if fate is None or isinstance(fate, NoEffect):
            continue
        values = [True] if not row.args else []
        for word in WORDS if row.args else ():
            try:
                values.append(row.args[0].kind.parse(word))
            except ValueError:
                continue
        model = replace(model, **{row.fills[1]: source.choice(values)})
    return model


def some(source: random.Random, *values: Any) -> tuple[Any, ...]:
    return tuple(value for value in values if source.random() < 0.5)


def common(source: random.Random, *, server: bool) -> Common:
    key = Secret(STATIC_KEY)
    digest = source.choice(("SHA1", "SHA256", "SHA512"))
    auth = TlsAuth(key, source.choice((None, 0, 1)), digest)
    beside = source.choice((None, auth, TlsCrypt(key)))
    special = (
        TlsCryptV2Server(
            SERVER_KEY, beside, source.random() < 0.5, source.choice((0, 30)), source.choice(((), ("/bin/true", "a b")))
        )
        if server
        else TlsCryptV2Client(CLIENT_KEY.key, CLIENT_KEY.wrapped)
    )
    ciphers = source.choice((("AES-256-GCM",), ("AES-128-GCM", "CHACHA20-POLY1305"), ("AES-256-GCM", "AES-256-CBC")))
    identity = Identity(CERTIFICATE.encode() * source.choice((1, 2)), Secret(KEY.encode()))
    outer, link, inner = SizeOf.OUTER, SizeOf.LINK, SizeOf.INNER
    mssfix, mssfix_of = source.choice(((0, outer), (1300, link), (1492, outer), (1200, inner)))
    fragment, fragment_of = source.choice(((0, link), (1300, link), (1200, outer)))
    made = Common(
        wrap=source.choice((NoWrap(), auth, TlsCrypt(key), special)),
        identity=identity if server or source.random() < 0.7 else None,
        peer=peer(source),
        tls=source.choice((TlsVersions(), TlsVersions((1, 3)), TlsVersions((1, 2), (1, 2)))),
        choices=source.choice(
            (
                TlsChoices(),
                TlsChoices("DEFAULT:!aNULL", "TLS_AES_128_GCM_SHA256", "X25519:P-256"),
                TlsChoices(security_level=2),
                TlsChoices("ECDHE-ECDSA-AES128-GCM-SHA256", security_level=3),
            )
        ),
        timers=timers(source, server=server),
        data_ciphers=ciphers,
        data_ciphers_fallback=source.choice((None, "AES-128-CBC")),
        digest=digest,
        dev=source.choice(("tun", "tun7", "vpn0")),
        mssfix=mssfix,
        mssfix_of=mssfix_of,
        fragment=fragment,
        fragment_of=fragment_of,
        compression=source.choice(tuple(Compression)),
        decompress=source.random() < 0.5,
        explicit_exit_notify=source.choice((0, 2)),
        replay_window=source.choice((64, 128)),
        replay_time=source.choice((0.0, 15.0, 30.0)),
    )
    return filled(source, made, server=server)


def peer(source: random.Random) -> PeerPolicy:
    pinned = source.random() < 0.3
    name = NameCheck(source.choice(TEXTS), source.choice(tuple(NameType)))
    policy = PeerPolicy(
        remote_cert_tls=source.choice((None, "server", "client")),
        name=source.choice((None, name)),
        key_usages=source.choice((None, (), (0xA0, 0x88))),
        extended_usage=source.choice(("", "1.3.6.1.5.5.7.3.1")),
        username_fields=source.choice((("CN",), ("OU", "emailAddress"))),
    )
    if pinned:
        return replace(policy, fingerprints=frozenset({b"\1" * 32, b"\2" * 32}))
    return replace(
        policy,
        ca_pem=CERTIFICATE.encode(),
        crl_pem=source.choice((b"", CRL.encode())),
        issuer_hashes=source.choice((frozenset(), frozenset({b"\1" * 32, b"\2" * 20}))),
    )


def timers(source: random.Random, *, server: bool) -> Timers:
    usual = 0.0 if server else Timers.ping_restart
    restart, leave = source.choice(((usual, 0.0), (30.0, 0.0), (0.0, 40.0)))
    made = Timers(
        reneg_sec=source.choice((3600.0, 0.0, 7200.0)),
        ping=source.choice((0.0, 10.0)),
        ping_restart=restart,
        ping_exit=leave,
        connect_retry=1.0 if server else source.choice((1.0, 5.0)),
        connect_retry_max_pause=300.0 if server else source.choice((300.0, 60.0)),
    )
    if not server and source.random() < 0.3:
        made = replace(made, inactive=600.0, inactive_bytes=source.choice((0, 1000)))
    if made.reneg_sec and source.random() < 0.3:
        made = replace(made, reneg_sec_least=600.0)
    return filled(source, made, server=server)  # type: ignore[no-any-return]


def remote(source: random.Random, base: Common) -> Remote:
    host = source.choice(("vpn.example.org", "192.0.2.1", "2001:db8::1"))
    family = {"1": Family.IPV4, ":": Family.IPV6}.get("1" if host[0] == "1" else ":" if ":" in host else "")
    made = Remote(host, source.choice((443, 1194)), source.choice(tuple(Proto)), family or source.choice(tuple(Family)))
    if source.random() < 0.5:
        return made
    login = source.choice((None, ENTRY))
    asks = source.random() < 0.5
    methods = source.choice((frozenset({"basic", "digest"}), frozenset({"digest"})))
    if asks and login is None and source.random() < 0.5:
        methods = frozenset({"basic"})
    http = HttpProxy("proxy", 8080, login, methods if login or asks else frozenset(),
                     methods == frozenset({"basic"}), version=source.choice(("1.0", "1.1")), asks=asks and not login,
                     headers=some(source, ("User-Agent", "a b"), ("X-Header", "c")))  # fmt: skip
    socks = SocksProxy("socks", 1080, asks=asks)
    proxy = source.choice((None, socks, http) if made.proto is Proto.TCP else (None, socks))
    local = source.choice((Local(), Local(None, 5), Local(ip_address("192.0.2.9"), 7)))
    own = replace(
        base,
        mssfix=source.choice((base.mssfix, 1250)),
        tun_mtu=source.choice((base.tun_mtu, 1420)),
        timers=replace(base.timers, connect_timeout=source.choice((base.timers.connect_timeout, 9.0))),
        wrap=source.choice((base.wrap, TlsCrypt(Secret(bytes(256))))),
    )
    return replace(made, proxy=proxy, local=local, common=None if own == base else own)


def client(source: random.Random) -> ClientConfig:
    """Any client profile that the language can say in one file."""
    base = common(source, server=False)
    around = source.random() < 0.3
    if around and source.random() < 0.5:
        base = replace(base, dev=source.choice(("tap", "tap3", "vpn0")), ethernet=True)
    remotes = tuple(remote(source, base) for _ in range(source.choice((1, 2, 5))))
    proxies = {one.proxy.credentials for one in remotes if isinstance(one.proxy, HttpProxy)}
    if len(proxies) > 1:
        remotes = tuple(replace(one, proxy=None) if isinstance(one.proxy, HttpProxy) else one for one in remotes)
    asked = base.identity is None or source.random() < 0.6
    how = source.choice(("", "both", "name")) if asked else ""
    routes = some(
        source,
        Route(ip_network("10.0.0.0/8")),
        Route(ip_network("192.168.4.0/24"), ip_address("10.8.0.1"), 5),
        Route(ip_network("172.16.0.0/12"), None, 7),
    )
    routes += some(source, Route(ip_network("fd00::/8"), None, 3), Route(ip_network("2001:db8::/32")))
    landmarks = some(
        source,
        LandmarkRoute(ip_network("10.9.0.0/16"), Landmark.NET_GATEWAY, 4),
        LandmarkRoute(Landmark.REMOTE_HOST, Landmark.NET_GATEWAY),
        LandmarkRoute(ip_network("2001:db8:1::/48"), Landmark.NET_GATEWAY, 5),
    )
    challenges = (None, StaticChallenge("Code?", True), StaticChallenge('a "code"', False, concat=True))
    made = ClientConfig(
        common=base,
        remotes=remotes,
        auth_user_pass=asked,
        credentials=ENTRY if how == "both" else None,
        username="alice" if how else None,
        static_challenge=source.choice(challenges) if asked else None,
        routes=routes,
        landmark_routes=landmarks if around else (),
        around=around,
        replay_persist=source.choice(("", "seen.txt")) if around else "",
        redirect=source.choice((None, frozenset(some(source, *REDIRECT_FLAGS)))),
        redirect_private=source.choice((None, frozenset(some(source, *REDIRECT_FLAGS)))),
        dns=dns(source, around=around),
        peer_info=some(source, ("UV_IPV6", "no"), ("UV_B", "a b")),
        pull_filters=tuple(
            PullFilter(source.choice(("accept", "ignore", "reject")), text) for text in some(source, *TEXTS)
        ),
    )
    made = filled(source, made, server=False)
    return made if made.push_peer_info else replace(made, peer_info=())


def static(source: random.Random) -> StaticConfig:
    """Any file of the static key mode; what it shares with a client comes from there, without all that is of TLS."""
    like = client(source)
    digest, cipher = source.choice(("SHA1", "SHA256")), source.choice(("AES-256-CBC", "AES-128-CBC"))
    usual = source.choice(((0.0, 0.0), (120.0, 0.0), (0.0, 40.0)))
    times = Timers(ping=source.choice((0.0, 10.0)), ping_restart=usual[0], ping_exit=usual[1], connect_timeout=9.0)
    base = Common(
        NoWrap(), None, PeerPolicy(), timers=times,
        data_ciphers=(*DEFAULT_DATA_CIPHERS, cipher), data_ciphers_fallback=cipher,
        digest=digest, dev=like.common.dev, ethernet=like.common.ethernet, mssfix=like.common.mssfix,
        mssfix_of=like.common.mssfix_of,
        fragment=like.common.fragment, fragment_of=like.common.fragment_of, compression=like.common.compression,
        decompress=like.common.decompress, sndbuf=like.common.sndbuf, tun_mtu=like.common.tun_mtu,
    )  # fmt: skip
    own = replace(base, mssfix=1250)
    ends = [Local(), Local(None, 1194), Local(None, 5), Local(ip_address("192.0.2.9"), 7)]
    end = source.choice(ends)
    mixed = source.random() < 0.5
    remotes = tuple(
        replace(one, local=source.choice(ends) if mixed else end,
                proxy=one.proxy if mixed and not (one.proxy and one.proxy.asks) else None,
                common=source.choice((None, own)) if mixed else None)
        for one in like.remotes
    )  # fmt: skip
    shared = ClientConfig(
        base, remotes, replay_persist=like.replay_persist,
        routes=like.routes, landmark_routes=like.landmark_routes, around=like.around,
        redirect=like.redirect, dns=like.dns, persist_tun=like.persist_tun, remote_random=like.remote_random,
    )  # fmt: skip
    made = StaticConfig(shared, Secret(STATIC_KEY), source.choice((None, 0, 1)), cipher, own_lines(source))
    if source.random() < 0.6:
        return made
    listen = source.choice((Listen("", 1194, Proto.UDP), Listen("192.0.2.9", 7, Proto.TCP, Family.IPV4)))
    only = () if listen.proto is Proto.UDP else source.choice(((), (ip_address("192.0.2.7"),)))
    return replace(made, client=replace(shared, remotes=(), remote_random=False), listen=listen, only=only)


def point_client(source: random.Random) -> PointClient:
    """Any file of the connecting end of a TLS tunnel between two."""
    like = client(source)
    usual = replace(like.common.timers, ping_restart=source.choice((0.0, 60.0)), ping_exit=0.0)
    base = replace(like.common, timers=usual)
    remotes = tuple(
        replace(one, local=Local() if one.local == Local() else replace(one.local, port=5), common=None, proxy=None)
        for one in like.remotes
    )
    return PointClient(replace(like, common=base, remotes=remotes), own_lines(source))


def point_server(source: random.Random) -> PointServer:
    """Any file of the waiting end."""
    like, wraps = client(source), common(source, server=True)
    usual = replace(wraps.timers, ping_restart=source.choice((0.0, 60.0)), ping_exit=0.0)
    base = replace(like.common, timers=usual, wrap=wraps.wrap, digest=wraps.digest, identity=wraps.identity)
    only = some(source, ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    shared = replace(
        like, common=base, remotes=(), redirect=like.redirect if only else None, auth_user_pass=False,
        credentials=None, username=None, static_challenge=None, session_timeout=0.0,
    )  # fmt: skip
    family = source.choice(tuple(Family))
    return PointServer(shared, own_lines(source), Listen("", 1194, source.choice(tuple(Proto)), family), only)


def own_lines(source: random.Random) -> tuple[str, ...]:
    """The lines of a file that nobody pushes to."""
    tunnel = ("ifconfig 10.1.0.2 10.1.0.1", *some(source, "ifconfig-ipv6 fd01::2/64 fd01::1"))
    return some(source, source.choice(("topology p2p", "topology subnet"))) + tunnel


def dns(source: random.Random, *, around: bool) -> Dns:
    """Resolvers; on a plain host also those that take more to ask."""
    said = Dns(some(source, ip_address("10.8.0.1"), ip_address("fd00::1")), some(source, "a.example", "b.example"))
    if not around:
        return said
    said = replace(said, split=source.choice(((EVERY_NAME,), some(source, "c.example", "d.example"))))
    if not said.servers or source.random() < 0.5:
        return said
    return replace(said, port=853, tls=True, tls_name=source.choice(("", "dns.example")),
                   dnssec=source.choice(("", "yes", "optional")))  # fmt: skip


def login(source: random.Random) -> LoginRules | None:
    words = ("/usr/bin/judge", "a b", "it's")
    method = source.choice((None, PasswordFile("users"), Command(words, source.random() < 0.5), Pam("login")))
    if method is None:
        return None
    tokens = TokenRules(source.choice((0.0, 60.0)), 600.0, source.choice((None, Secret(bytes(range(32))))))
    return filled(source, LoginRules(method, tokens=source.choice((None, tokens))), server=True)  # type: ignore[no-any-return]


def operating(source: random.Random) -> Operating:
    files = (None, OutputFile("status", 60.0), OutputFile("a file", 5.0))
    made = Operating(source.choice(files), 1, source.choice(files), source.choice((None, "socket")))
    if made.management is None:  # what concerns the socket is an error without one
        return made
    return filled(source, made, server=True)  # type: ignore[no-any-return]


def server(source: random.Random) -> ServerConfig:
    """Any server's configuration that the language can say in one file."""
    proto, family = source.choice(tuple(Proto)), source.choice(tuple(Family))
    address = {Family.IPV4: "192.0.2.1", Family.IPV6: "2001:db8::1", Family.ANY: ""}[family]
    made = ServerConfig(
        common=common(source, server=True),
        listen=Listen(source.choice((address, "")), source.choice((443, 1194)), proto, family),
        network=ip_network("10.8.0.0/24"),
        push=some(source, "route 10.0.0.0 255.0.0.0", 'echo "a b"', "ping 10"),
        operating=operating(source),
        login=login(source),
        first_packets=source.choice((ServerConfig.first_packets, Frequency(1, 86400.0))),
        new_clients=source.choice((None, Frequency(100, 10.0))),
        beside=some(source, Listen("", 1195, Proto.TCP), Listen("192.0.2.9", 7, Proto.UDP, Family.IPV4)),
        pool=source.choice((None, (), (ip_address("10.8.0.9"), ip_address("10.8.0.90")))),
        persist=source.choice((None, OutputFile("pool.txt", 0), OutputFile("a b", 60))),
        nat=source.choice((None, "", "eth0")),
        client_dir=source.choice((None, ClientDir("ccd"), ClientDir("a b/ccd", exclusive=True))),
        routes=tuple(Route(each.network, None, each.metric) for each in some(source, *INWARD)),
    )
    if made.common.tun_mtu >= MIN_MTU_IPV6:
        made = replace(made, network6=source.choice((None, ip_network("fd42:8::/64"), ip_network("fd42:8::/124"))))
    made = filled(source, made, server=True)
    other = source.choice((switched, spelled_out, None, None))
    return made if other is None else other(source, made)


def spelled_out(source: random.Random, made: ServerConfig) -> ServerConfig:
    """The same with addresses in their long form, or of IPv6 alone."""
    pool = source.choice(((), (ip_address("10.8.0.9"), ip_address("10.8.0.90"))))
    made = replace(made, own=ip_address("10.8.0.7"), pool=pool, topology="subnet")
    if made.network6 is None:
        return made
    pool6 = source.choice(((), (ip_address("fd42:8::8"),)))
    made = replace(made, network6=ip_network("fd42:8::/64"), own6=ip_address("fd42:8::7"), pool6=pool6)
    return source.choice((made, replace(made, own=None, network=None, pool=())))


def switched(source: random.Random, made: ServerConfig) -> ServerConfig:
    """The same for Ethernet frames, in a bridge or not."""
    common = replace(made.common, dev=source.choice(("tap", "tap3", "vpn0")), ethernet=True)
    made = replace(made, common=common, topology="subnet", routes=some(source, *BY_NEIGHBOUR))
    bridge = source.choice((None, Bridge(), Bridge(dhcp_gateway=False), Bridge(ip_address("10.8.4.1"))))
    pool = (ip_address("10.8.4.9"), ip_address("10.8.7.254"))
    if bridge is None:
        return made
    made = replace(made, bridge=bridge, network=None, pool=(), network6=None, nat=None)
    if bridge == Bridge() or (bridge.gateway is None and source.random() < 0.5):
        return made
    return replace(made, network=ip_network("10.8.4.0/22"), pool=pool)
