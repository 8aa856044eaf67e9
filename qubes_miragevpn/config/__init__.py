# SPDX-License-Identifier: BSD-2-Clause
"""The OpenVPN configuration language: text to typed models."""
