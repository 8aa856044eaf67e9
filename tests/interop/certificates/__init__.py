# SPDX-License-Identifier: BSD-2-Clause
"""Certificates in every form, and every check of them, against openvpn 2.6."""
