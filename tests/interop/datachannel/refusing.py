# SPDX-License-Identifier: BSD-2-Clause
"""Programs under a kernel that refuses, or answers absurdly: `refusing.c` says what, in the way of the real calls."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


def build(folder: Path) -> Path:
    """Compile it into `folder`; where the native data plane was built there is a C compiler."""
    library = folder / "refusing.so"
    command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library
