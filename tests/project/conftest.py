"""So that the tests of the project find what stands beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `mirror` and `imports`

collect_ignore = ["typing"]  # read by type checkers, never run
