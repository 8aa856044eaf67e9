# SPDX-License-Identifier: BSD-2-Clause
"""Doing things in steps: what is to be done is shown first, then done one by one.

A plan is made by comparing what is with what shall be, so that it holds only what is missing: after an interruption
the same command goes on where it stopped, and once all is done its plan is empty.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qubes_miragevpn.admin.failure import Failure
from qubes_miragevpn.base.exitcodes import ExitCode


@dataclass(frozen=True)
class Step:
    """A line of the plan, and what carries it out."""

    text: str
    do: Callable[[], object]


def show(steps: Sequence[Step], title: str) -> None:
    """Print the plan."""
    print(title if steps else f"{title} nothing to do")
    for number, step in enumerate(steps, 1):
        print(f"  {number}. {step.text}")


def carry_out(steps: Sequence[Step]) -> None:
    """Do all steps, a line for each; raises `Failure` at the one that fails, saying how to go on."""
    for number, step in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] {step.text} ... ", end="", flush=True)
        try:
            step.do()
        except Failure as error:
            print("failed", flush=True)
            remedy = f"{error.remedy}; then " if error.remedy else ""
            raise Failure(error.code, error.what, f"{remedy}run the same command again: it goes on from here") from None
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise Failure(ExitCode.SYSTEM, "interrupted", "run the same command again: it goes on from here") from None
        print("done", flush=True)


def confirm(question: str) -> bool:
    """Ask at the terminal; no terminal, no answer, no."""
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
