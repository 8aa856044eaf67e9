# SPDX-License-Identifier: BSD-2-Clause
"""Static key mode against openvpn 2.6."""
