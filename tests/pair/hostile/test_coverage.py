# SPDX-License-Identifier: BSD-2-Clause
"""Every attack of the catalogue on client and server has its tests, and every test that the tables name exists."""

from __future__ import annotations

import ast
from functools import cache
from types import ModuleType

import pytest

from tests.conftest import TESTS
from tests.pair.hostile import coverage as client
from tests.pair.hostile.coverage import Attack
from tests.pair.hostile.server import coverage as server


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("victim", [client, server])
def test_every_number_has_its_row(victim: ModuleType) -> None:
    assert [attack.number for attack in victim.ATTACKS] == list(victim.NUMBERS)


@pytest.mark.parametrize("attack", (*client.ATTACKS, *server.ATTACKS), ids=lambda attack: f"{attack.number}")
def test_every_row_names_tests_that_exist(attack: Attack) -> None:
    assert attack.tests
    for test in attack.tests:
        file, _, name = test.partition("::")
        assert name in functions(file), test
