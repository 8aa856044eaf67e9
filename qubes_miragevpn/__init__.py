# SPDX-License-Identifier: BSD-2-Clause
"""qubes-miragevpn: a fail-closed VPN qube on an OpenVPN-compatible protocol core."""
