# SPDX-License-Identifier: BSD-2-Clause
"""Numbers with their origin, and the tests of those that belong to no single module."""
