# SPDX-License-Identifier: BSD-2-Clause
"""QubesDB's tools, over a folder with a file for each entry: ``qubesdb.py read|multiread|write [-f] PATH [VALUE]``

They take the arguments and print the lines of qubes-core-qubesdb's client; what is written is told in the file
`EVENTS`, as a watch would tell it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote, unquote

ENTRIES, EVENTS = Path("/run/qubesdb"), Path("/run/qubesdb.events")


def main() -> None:
    """Do what the command line says."""
    command, *rest = (word for word in sys.argv[1:] if word != "-f")
    path = rest[0]
    if command == "write":
        (ENTRIES / quote(path, safe="")).write_text(rest[1])
        with EVENTS.open("a") as events:
            events.write(f"{path}\n")
    elif command == "multiread":
        for file in sorted(ENTRIES.iterdir()):
            if unquote(file.name).startswith(path):
                print(f"{unquote(file.name)} = {file.read_text()}")
    else:
        print((ENTRIES / quote(path, safe="")).read_text())


if __name__ == "__main__":
    try:
        main()
    except OSError:
        sys.exit(1)
