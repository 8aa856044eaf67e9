# SPDX-License-Identifier: BSD-2-Clause
"""Any bytes at all: coverage-guided fuzzing of what reads text from strangers, and the replay of its corpus."""
