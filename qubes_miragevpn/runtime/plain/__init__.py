# SPDX-License-Identifier: BSD-2-Clause
"""A plain Linux machine as the host of a tunnel."""
