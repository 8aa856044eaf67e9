# SPDX-License-Identifier: BSD-2-Clause
"""Every directive as one row: its arguments, where it may stand, how repeats combine, what becomes of it."""
