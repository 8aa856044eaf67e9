# SPDX-License-Identifier: BSD-2-Clause
"""The nftables table and policy routing that keep the qube closed."""
