"""The pages of docs/: their Python runs, from top to bottom, and prints what they say it does."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text()]
_DIGITS = re.compile(r"[-+]?\d+(,\d{3})*(\.\d+)?(e[-+]?\d+)?")


def words(text: str) -> list[str]:
    """The lines, without their numbers and the spaces between columns."""
    return [" ".join(_DIGITS.sub("#", line).split()) for line in text.strip().splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, tmp_path: Path) -> None:
    if not all(importlib.util.find_spec(name) for name in ("keras", "torch", "jax")):
        pytest.skip("keras, torch or jax is not installed")
    blocks = re.findall(r"```(python|text)\n(.*?)```", page.read_text(), re.DOTALL)
    marker, code, expected = "-- end of block --", [], []
    for (kind, block), (follows, output) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "python":
            code.append(f"{block}\nprint({marker!r}, flush=True)\n")
            expected.append(output if follows == "text" else "")
    done = subprocess.run(
        [sys.executable, "-c", "".join(code)],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for printed, wanted in zip(done.stdout.split(f"{marker}\n"), expected, strict=False):
        assert words(printed) == words(wanted)
