# SPDX-License-Identifier: BSD-2-Clause
"""Tests: see tests/conftest.py for the groups and what each needs."""
