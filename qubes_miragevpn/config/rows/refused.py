# SPDX-License-Identifier: BSD-2-Clause
"""Rows that are refused wherever they stand, with what to write instead.

Here is what would make a connection safer (or reach the server another way) and is not there yet: to load such a
profile without it would break a promise that its author relies on.
"""

from __future__ import annotations

from qubes_miragevpn.config.rows.row import refused

_YET = "is not supported yet"
_CLIENTS = "remove the line if the server may do without it"
_PINS = "use 'peer-fingerprint' with the SHA-256 fingerprint of the peer's certificate"
_HARDWARE = "use 'cert' and 'key' with PEM files"
_POOL = "remove the line: addresses come from 'server NETWORK NETMASK'"
_MANAGEMENT = "remove the line; `miragevpn status` and the control socket take its place"
_VLANS = "remove the line: frames go through with the tags that they have; keep VLANs apart by filters of the bridge"
_COMMAND = "is a command of openvpn's, not a setting"
_NO_COMMAND = "remove the line"

_COMMANDS = (
    "help", "version", "gremlin", "memstats", "mktun", "rmtun", "show-adapters", "show-ciphers", "show-curves",
    "show-digests", "show-engines", "show-gateway", "show-groups", "show-net", "show-pkcs11-ids",
    "show-pkcs11-objects", "show-pkcs11-slots", "show-tls", "show-valid-subnets",
)  # fmt: skip

ROWS = tuple(
    refused(name, reason, fix)
    for name, reason, fix in (
        # control-channel protection and certificates
        ("tls-verify", "runs a script, which is never done", "use 'verify-x509-name' or 'peer-fingerprint'"),
        ("x509-track", _YET, _CLIENTS),
        ("pkcs11-providers", _YET, _HARDWARE),
        ("pkcs11-id", _YET, _HARDWARE),
        ("pkcs11-id-management", _YET, _HARDWARE),
        ("pkcs11-protected-authentication", _YET, _HARDWARE),
        ("pkcs11-private-mode", _YET, _HARDWARE),
        ("pkcs11-cert-private", _YET, _HARDWARE),
        ("pkcs11-pin-cache", _YET, _HARDWARE),
        ("cryptoapicert", "is for Windows", _HARDWARE),
        ("providers", _YET, "remove the line to use OpenSSL's own"),
        ("engine", _YET, "remove the line to use OpenSSL's own"),
        ("tls-export-cert", "runs a script, which is never done", "remove the line"),
        ("prng", "is obsolete", "remove the line: randomness is the system's"),
        ("no-replay", "switches protection off", "remove the line"),
        ("no-iv", "switches protection off", "remove the line"),
        ("use-prediction-resistance", "is obsolete", "remove the line: randomness is the system's"),
        # other modes
        ("test-crypto", "is not supported", "remove the line"),
        ("cd", _YET, "write paths relative to this file, or absolute ones"),
        ("plugin", "is never supported: foreign code is not loaded", "remove the line"),
        ("tmp-dir", "is not supported", "remove the line"),
        ("bind-ipv6-only", _YET, "write 'proto udp6' or 'proto tcp6'"),
        ("inetd", "is obsolete", "remove the line"),
        ("scramble", "is not OpenVPN's and is not supported", "ask the provider for a profile with 'tls-crypt'"),
        ("management-client", "is not supported", _MANAGEMENT),
        ("management-client-auth", "is not supported", _MANAGEMENT),
        ("management-query-passwords", "is not supported", _MANAGEMENT),
        ("management-query-proxy", "is not supported", _MANAGEMENT),
        ("management-query-remote", "is not supported", _MANAGEMENT),
        ("management-external-key", "is not supported", _MANAGEMENT),
        ("management-external-cert", "is not supported", _MANAGEMENT),
        ("management-up-down", "is not supported", _MANAGEMENT),
        ("management-signal", "is not supported", _MANAGEMENT),
        ("management-client-group", "is not supported", _MANAGEMENT),
        ("management-client-user", "is not supported", _MANAGEMENT),
        ("management-client-pf", "is not supported", _MANAGEMENT),
        ("management-forget-disconnect", "is not supported", _MANAGEMENT),
        ("http-proxy-override", "is not supported", _MANAGEMENT),
        ("ip-remote-hint", _YET, "write the address as 'remote'"),
        ("setcon", "is the service manager's business", "remove the line, and confine the service by its unit"),
        ("compat-names", "is obsolete", "remove the line, and write names as they are in 'verify-x509-name'"),
        ("no-name-remapping", "is obsolete", "remove the line, and write names as they are in 'verify-x509-name'"),
        # what openvpn does instead of connecting
        *((name, _COMMAND, _NO_COMMAND) for name in _COMMANDS),
        ("genkey", _COMMAND, "run `miragevpn genkey`"),
        # a server's
        ("ifconfig-pool-linear", "is obsolete", _POOL),
        ("ifconfig-push-constraint", _YET, "remove the line"),
        ("client-connect", "runs a script, which is never done", "remove the line"),
        ("client-disconnect", "runs a script, which is never done", "remove the line"),
        ("client-crresponse", "runs a script, which is never done", "remove the line"),
        ("learn-address", "runs a script, which is never done", "remove the line"),
        ("client-cert-not-required", "is obsolete", "write 'verify-client-cert none'"),
        ("stale-routes-check", _YET, "remove the line"),
        ("port-share", _YET, "remove the line"),
        ("vlan-tagging", "is not supported", _VLANS),
        ("vlan-accept", "is not supported", _VLANS),
        ("vlan-pvid", "is not supported", _VLANS),
        ("force-tls-key-material-export", _YET, "remove the line: exported keys are used with every peer that can"),
    )
)
