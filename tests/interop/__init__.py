# SPDX-License-Identifier: BSD-2-Clause
"""Our client and our server, each against the distribution's openvpn 2.6, in network namespaces."""
