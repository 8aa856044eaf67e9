# SPDX-License-Identifier: BSD-2-Clause
"""Control-channel protection behind one interface."""
