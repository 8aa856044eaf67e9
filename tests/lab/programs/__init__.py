# SPDX-License-Identifier: BSD-2-Clause
"""Small programs that run in the lab's qubes: one file each, standard library only, started by path."""
