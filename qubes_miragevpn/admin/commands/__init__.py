# SPDX-License-Identifier: BSD-2-Clause
"""What `qvm-miragevpn` can be told to do, a module for each kind of command."""
