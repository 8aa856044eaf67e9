# SPDX-License-Identifier: BSD-2-Clause
"""Our client on a plain machine: what it changes there, what it needs, what it survives."""
