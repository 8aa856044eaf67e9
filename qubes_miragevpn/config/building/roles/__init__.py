# SPDX-License-Identifier: BSD-2-Clause
"""Settings to the configuration of one role each."""
