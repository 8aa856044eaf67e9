# SPDX-License-Identifier: BSD-2-Clause
"""Certificates for the tests of sessions, made once per run."""

from __future__ import annotations

import pytest

from tests.interop.pki import Pki, make


@pytest.fixture(scope="session")
def pki() -> Pki:
    return make()
