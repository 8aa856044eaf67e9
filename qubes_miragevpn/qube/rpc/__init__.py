# SPDX-License-Identifier: BSD-2-Clause
"""The control socket and the qrexec services."""
