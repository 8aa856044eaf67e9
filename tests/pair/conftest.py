# SPDX-License-Identifier: BSD-2-Clause
"""Certificates for the pair tests, made once per run."""

from __future__ import annotations

import pytest

from tests.interop.pki import Pki, make


@pytest.fixture(scope="session")
def pki() -> Pki:
    return make()
