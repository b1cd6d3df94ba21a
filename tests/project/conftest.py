"""So that the tests of the project find what stands beside them."""

import sys
from pathlib import Path

HERE = Path(__file__).parent

sys.path.insert(0, str(HERE))  # for `mirror` and `imports`

collect_ignore = ["typing"]  # read by type checkers, never run
if not (HERE.parents[1] / "pyproject.toml").is_file():  # an installed package, without its source
    collect_ignore += ["imports.py", "mirror.py", "test_imports.py", "test_mirror.py"]
    collect_ignore += ["test_typing.py"]
