# SPDX-License-Identifier: BSD-2-Clause
"""Who judges the user names and passwords of a server's clients: a file, a program, or the machine's own accounts."""
