# SPDX-License-Identifier: BSD-2-Clause
"""The control socket of the service, and the qrexec services that speak to it."""
