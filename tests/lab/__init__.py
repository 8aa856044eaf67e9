# SPDX-License-Identifier: BSD-2-Clause
"""A small Qubes network on one machine, the demo that runs in it, and the tests that look for leaks."""
