# SPDX-License-Identifier: BSD-2-Clause
"""Settings to models: rules between directives, keys and certificates, the values of the tunnel."""
