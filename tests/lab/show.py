# SPDX-License-Identifier: BSD-2-Clause
"""The demo's screen: one line per step, alive while it takes time, and a table of the checks at the end.

Colour and the moving line on a terminal only (NO_COLOR is respected); elsewhere plain text, one line when a step begins
to take long and one when it ends.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TextIO

from tests.lab.qube import LabError

BOLD, DIM, RED, GREEN, CYAN = "1", "2", "31", "32", "36"
FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class StoryEnds(Exception):
    """A step failed and those after it make no sense."""


@dataclass
class Step:
    """One line: what is done, what came of it; a step that fails raises."""

    text: str
    begin: float = field(default_factory=time.monotonic)
    outcome: str = ""
    seconds: float = 0.0
    good: bool = False


class Show:
    """Prints steps and remembers them for the table."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = self.terminal and "NO_COLOR" not in os.environ
        encoding = (self.stream.encoding or "").lower().replace("-", "")
        self.marks = ("✓", "✗") if encoding == "utf8" else ("+", "x")
        self.frames = FRAMES if encoding == "utf8" else "|/-\\"
        self.steps: list[Step] = []
        self._lock = threading.Lock()

    def paint(self, text: str, *codes: str) -> str:
        """The text in colour, if there is colour."""
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self.colour else text

    def line(self, text: str = "") -> None:
        """A line of its own."""
        self._write(text + "\n")

    def heading(self, text: str) -> None:
        """A line that says what the next steps are about."""
        self.line("\n" + self.paint(text, BOLD))

    def said(self, text: str) -> None:
        """What a program said, quietly."""
        for line in text.splitlines():
            self.line("      " + self.paint(line, DIM))

    @contextmanager
    def step(self, text: str) -> Iterator[Step]:
        """A step of the story; an error ends it as failed, and the story with it."""
        step = Step(text)
        self.steps.append(step)
        done = threading.Event()
        alive = threading.Thread(target=self._animate, args=(step, done), daemon=True)
        alive.start()
        problem = ""
        try:
            yield step
            step.good = True
        except (LabError, AssertionError, OSError, ValueError) as error:
            problem = str(error) or type(error).__name__
            raise StoryEnds from error
        finally:
            step.seconds = time.monotonic() - step.begin
            done.set()
            alive.join()
            self._finish(step, problem)

    def _finish(self, step: Step, problem: str) -> None:
        mark = self.paint(self.marks[0], GREEN) if step.good else self.paint(self.marks[1], RED, BOLD)
        outcome = f"  {self.paint(step.outcome, CYAN)}" if step.outcome else ""
        time_taken = self.paint(f"{step.seconds:5.1f} s", DIM)
        self._write(("\r\x1b[K" if self.terminal else "") + f"  {mark} {time_taken}  {step.text}{outcome}\n")
        if problem:
            self.said(problem)

    def _animate(self, step: Step, done: threading.Event) -> None:
        frame = 0
        if not self.terminal:
            if not done.wait(1.0):
                self._write(f"    ...      {step.text}\n")
            return
        while not done.wait(0.1 if frame else 0.05):
            seconds = time.monotonic() - step.begin
            spinner = self.paint(self.frames[frame % len(self.frames)], CYAN)
            width = shutil.get_terminal_size().columns - 14
            self._write(f"\r\x1b[K  {spinner} {self.paint(f'{seconds:5.1f} s', DIM)}  {step.text[:width]}")
            frame += 1

    def _write(self, text: str) -> None:
        # The reader may have gone away; the story goes on to its end, which takes everything down.
        with self._lock, suppress(BrokenPipeError):
            self.stream.write(text)
            self.stream.flush()

    def table(self, rows: list[tuple[str, str, bool]]) -> None:
        """A table of (check, what was seen, good)."""
        left, right = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
        rule = "  " + "-" * (left + right + 12)
        self.line(self.paint(rule, DIM))
        for check, seen, good in rows:
            verdict = self.paint("ok", GREEN) if good else self.paint("FAILED", RED, BOLD)
            self.line(f"  {check:<{left}}   {seen:<{right}}   {verdict}")
        self.line(self.paint(rule, DIM))
