# SPDX-License-Identifier: BSD-2-Clause
"""What both drivers are made of."""
