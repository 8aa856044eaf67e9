# SPDX-License-Identifier: BSD-2-Clause
"""What the addresses inside mean."""
