# SPDX-License-Identifier: BSD-2-Clause
"""The service that lives in the VPN qube."""
