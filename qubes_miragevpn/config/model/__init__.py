# SPDX-License-Identifier: BSD-2-Clause
"""What a configuration means, as frozen values in which conflict cannot be represented.

The loader makes these from text, the protocol machines and the drivers read them; nobody changes
them. Times are seconds, sizes bytes. A value that was *pulled* from a server is a `TunnelSettings`
and never mixes with the operator's own configuration, so a restart always begins clean.
"""

from qubes_miragevpn.config.model.logins import Command, LoginRules, Method, Pam, PasswordFile, TokenRules
from qubes_miragevpn.config.model.roles import (
    ClientConfig,
    Operating,
    OutputFile,
    PullFilter,
    Remote,
    ServerConfig,
    StaticChallenge,
    StaticConfig,
)
from qubes_miragevpn.config.model.security import (
    ControlWrap,
    Identity,
    NameCheck,
    NameType,
    NoWrap,
    PeerPolicy,
    Revoked,
    TlsAuth,
    TlsCrypt,
    TlsCryptV2Client,
    TlsCryptV2Server,
)
from qubes_miragevpn.config.model.session import (
    DEFAULT_DATA_CIPHERS,
    Common,
    Compression,
    SizeOf,
    Timers,
    TlsChoices,
    TlsVersions,
)
from qubes_miragevpn.config.model.transport import (
    ANYWHERE,
    Credentials,
    Family,
    HttpProxy,
    Listen,
    Local,
    Proto,
    Proxy,
    SocksProxy,
)
from qubes_miragevpn.config.model.tunnel import (
    Detour,
    Dns,
    Landmark,
    LandmarkRoute,
    PulledOptions,
    Route,
    TunnelSettings,
)

__all__ = [
    "ANYWHERE",
    "DEFAULT_DATA_CIPHERS",
    "ClientConfig",
    "Command",
    "Common",
    "Compression",
    "ControlWrap",
    "Credentials",
    "Detour",
    "Dns",
    "Family",
    "HttpProxy",
    "Identity",
    "Landmark",
    "LandmarkRoute",
    "Listen",
    "Local",
    "LoginRules",
    "Method",
    "NameCheck",
    "NameType",
    "NoWrap",
    "Operating",
    "OutputFile",
    "Pam",
    "PasswordFile",
    "PeerPolicy",
    "Proto",
    "Proxy",
    "PullFilter",
    "PulledOptions",
    "Remote",
    "Revoked",
    "Route",
    "ServerConfig",
    "SizeOf",
    "SocksProxy",
    "StaticChallenge",
    "StaticConfig",
    "Timers",
    "TlsAuth",
    "TlsChoices",
    "TlsCrypt",
    "TlsCryptV2Client",
    "TlsCryptV2Server",
    "TlsVersions",
    "TokenRules",
    "TunnelSettings",
]
