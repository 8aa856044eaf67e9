# SPDX-License-Identifier: BSD-2-Clause
"""Looking after a running server: who is connected, in the forms that tools read, and openvpn's management protocol."""
