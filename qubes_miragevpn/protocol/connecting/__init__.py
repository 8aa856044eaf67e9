# SPDX-License-Identifier: BSD-2-Clause
"""The parts of the role that connects to a server, or to an equal that waits."""
