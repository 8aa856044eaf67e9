# SPDX-License-Identifier: BSD-2-Clause
"""Text to settings: words, blocks, includes, the command line; each line against its row."""
