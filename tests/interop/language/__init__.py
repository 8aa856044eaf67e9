# SPDX-License-Identifier: BSD-2-Clause
"""The configuration language, judged by openvpn 2.6 and by our loader."""
