# SPDX-License-Identifier: BSD-2-Clause
"""The tool for dom0 and for a management qube: plan, apply, look, and ask VPN qubes; parses no profile."""
