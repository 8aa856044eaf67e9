# SPDX-License-Identifier: BSD-2-Clause
"""Models to canonical text: what a configuration says, self-contained, with every key and certificate inline.

`parse(render(x)) == x` for every model, as long as secrets are shown. What a row fills by itself (`Row.fills`) is
rendered by that row; here is only what takes more than one directive to say. What has no inline form is refused: a
directory of revoked serial numbers, and passwords for a proxy that are not the same for all of them.
"""

from qubes_miragevpn.config.render.blocks import HIDDEN
from qubes_miragevpn.config.render.roles import Model, render

__all__ = ["HIDDEN", "Model", "render"]
