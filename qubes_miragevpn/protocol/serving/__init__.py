# SPDX-License-Identifier: BSD-2-Clause
"""What only the server role needs: admission and address pool."""
