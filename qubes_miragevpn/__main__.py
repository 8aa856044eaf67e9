# SPDX-License-Identifier: BSD-2-Clause
"""`python -m qubes_miragevpn` is the command `miragevpn`."""

from __future__ import annotations

import sys

from qubes_miragevpn.cli.main import main

sys.exit(main())
