# SPDX-License-Identifier: BSD-2-Clause
"""The data channel against openvpn 2.6: ciphers, framing, sizes."""
