# SPDX-License-Identifier: BSD-2-Clause
"""Our client through real proxies to openvpn 2.6."""
