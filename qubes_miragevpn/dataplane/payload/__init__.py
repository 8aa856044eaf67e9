# SPDX-License-Identifier: BSD-2-Clause
"""What lies between a key and an inner packet where a server wants it so: compression framing, fragments."""
