# SPDX-License-Identifier: BSD-2-Clause
"""What anybody may try on a server; `coverage.py` is the index."""
