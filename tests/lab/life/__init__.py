# SPDX-License-Identifier: BSD-2-Clause
"""The life of a VPN qube: vifs and uplinks that come and go, sleep, clocks, path MTUs, flows and reconnections."""
