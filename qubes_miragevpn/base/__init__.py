# SPDX-License-Identifier: BSD-2-Clause
"""Names, errors and secret values: standard library only."""
