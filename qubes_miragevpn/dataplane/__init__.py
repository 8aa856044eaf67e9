# SPDX-License-Identifier: BSD-2-Clause
"""The data plane: its interface and the readable reference."""
