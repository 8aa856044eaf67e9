# SPDX-License-Identifier: BSD-2-Clause
"""The outer sockets: opening them, and reading and writing packets."""
