# SPDX-License-Identifier: BSD-2-Clause
"""Cipher suites, primitives, key derivation, key files, replay windows."""
