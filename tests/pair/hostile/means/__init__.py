# SPDX-License-Identifier: BSD-2-Clause
"""What attacks are made with: somebody on the wire, a server that is scripted, records of TLS made by hand."""
