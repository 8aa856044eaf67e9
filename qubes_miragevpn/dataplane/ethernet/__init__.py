# SPDX-License-Identifier: BSD-2-Clause
"""Tunnels of Ethernet frames: what is looked at in a frame, and who has which address on a server of many."""
