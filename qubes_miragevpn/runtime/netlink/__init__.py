# SPDX-License-Identifier: BSD-2-Clause
"""Links, addresses, routes and rules of the kernel: values, blocking calls, journal, events."""
