# SPDX-License-Identifier: BSD-2-Clause
"""Bytes to values and back, and nothing else."""
