"""Makes `tests` importable, behind everything else: `vswitch` is the installed one, not the checkout's."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
