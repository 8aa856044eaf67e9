# SPDX-License-Identifier: BSD-2-Clause
"""What we cost and carry beside openvpn 2.6, measured in one run on one machine (`make bench`)."""
