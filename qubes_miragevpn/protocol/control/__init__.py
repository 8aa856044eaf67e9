# SPDX-License-Identifier: BSD-2-Clause
"""Reliability, TLS, peer verification, key exchange, negotiation."""
