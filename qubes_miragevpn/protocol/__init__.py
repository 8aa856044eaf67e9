# SPDX-License-Identifier: BSD-2-Clause
"""The sans-IO protocol core: the contract, the session and the roles."""
