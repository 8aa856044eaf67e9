# SPDX-License-Identifier: BSD-2-Clause
"""Every attack of the catalogue on a client has its tests, and every test that the table names exists."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.conftest import TESTS
from tests.pair.hostile.coverage import ATTACKS, NUMBERS, Attack


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_number_has_its_row() -> None:
    assert [attack.number for attack in ATTACKS] == list(NUMBERS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.number}")
def test_every_row_names_tests_that_exist(attack: Attack) -> None:
    assert attack.tests
    for test in attack.tests:
        file, _, name = test.partition("::")
        assert name in functions(file), test
