# SPDX-License-Identifier: BSD-2-Clause
"""Who judges the logins of a server's clients: a file, a program, the machine's accounts; a program for their keys."""
