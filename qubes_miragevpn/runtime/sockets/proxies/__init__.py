# SPDX-License-Identifier: BSD-2-Clause
"""Proxies on the way to the server: what is said to them, and saying it."""
