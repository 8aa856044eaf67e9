# SPDX-License-Identifier: BSD-2-Clause
"""The native data plane (native/binding), which is there where it could be built."""

VERSION: str
"""The version of the native code."""
