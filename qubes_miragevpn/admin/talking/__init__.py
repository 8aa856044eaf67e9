# SPDX-License-Identifier: BSD-2-Clause
"""How the tool speaks: the Admin API by qubesadmin, and our qrexec services with replies that nobody trusts."""
