"""Makes `tests` importable, behind everything else: `vswitch` is the installed one, not the checkout's."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.append(str(Path(__file__).parents[1]))

# How long an example takes says nothing on a busy machine.
settings.register_profile("vswitch", parent=settings.default, deadline=None)
settings.load_profile("vswitch")
