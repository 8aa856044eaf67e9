# SPDX-License-Identifier: BSD-2-Clause
"""Tunnels of Ethernet frames."""
