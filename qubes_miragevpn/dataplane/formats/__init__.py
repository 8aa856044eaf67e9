# SPDX-License-Identifier: BSD-2-Clause
"""How a data packet looks under a key: one module for each format, and the choice between them."""
