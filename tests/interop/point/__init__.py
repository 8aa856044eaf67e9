# SPDX-License-Identifier: BSD-2-Clause
"""TLS between two: nobody pushes."""
