"""The README and the pages of docs/: their Python runs and prints what they say it does.

And what any page or docstring says of which activation is better, it says with what was found.
"""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
    if page.is_file() and "```python" in page.read_text()
]
_DIGITS = re.compile(r"[-+]?\d+(,\d{3})*(\.\d+)?(e[-+]?\d+)?")


def words(text: str) -> list[str]:
    """The lines, without their numbers and the spaces between columns."""
    return [" ".join(_DIGITS.sub("#", line).split()) for line in text.strip().splitlines()]


def measured(text: str) -> list[float]:
    """The numbers with a decimal point; others may be counts, which depend on rounding."""
    found = (one[0].replace(",", "") for one in _DIGITS.finditer(text))
    return [float(number) for number in found if "." in number]


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
        assert measured(printed) == pytest.approx(measured(wanted), rel=1e-4, abs=1e-6)


RESULTS = "docs/results/segmentation.md"
TITLE = re.compile(r"sigmoid activation is not optimal with binary\s+segmentation", re.IGNORECASE)
CLAIM = re.compile(
    r"\b(sigmoid|arctan\w*|normal[ _]CDF|activations?)\b[^.|]*"
    r"\b(better|optimal|superior|beats?|outperforms?|best\s+(output\s+)?activation)\b",
    re.IGNORECASE,
)


def texts():
    """Every page, every docstring and the description of the package, by where it is from."""
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))):
        yield str(page.relative_to(ROOT)), page.read_text()
    yield "pyproject.toml", (ROOT / "pyproject.toml").read_text()
    for folder in ("segact_torch", "segact_tf", "parity", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    yield str(path.relative_to(ROOT)), ast.get_docstring(node) or ""


def bare_claims(name: str, text: str) -> list[str]:
    """The paragraphs that say which activation is better and not what was found here."""
    paragraphs = re.split(r"\n\s*\n", TITLE.sub("", text))
    found = [one for one in paragraphs if CLAIM.search(one)] if name != RESULTS else []
    return [one for one in found if not ("found" in one and RESULTS in one)]


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs a source checkout")
def test_no_claim_without_what_was_found() -> None:
    assert {(name, one) for name, text in texts() for one in bare_claims(name, text)} == set()
    assert [one for one in texts() if CLAIM.search(one[1])]  # there is one to hold


def test_what_is_a_claim() -> None:
    claim = "Sigmoid is not optimal: arctangent does better under Dice."
    assert bare_claims("README.md", f"Fine.\n\n{claim}\n\nWe found it in {RESULTS}.") == [claim]
    assert bare_claims("README.md", f"{claim} We found otherwise ({RESULTS}).") == []
    assert (
        bare_claims("README.md", "Sigmoid activation is not optimal with binary\nsegmentation")
        == []
    )


LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs a source checkout")
def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    links = [(page, to) for page in pages for to in LINK.findall(page.read_text())]
    missing = [
        (str(page.relative_to(ROOT)), to)
        for page, to in links
        if "://" not in to and not (page.parent / to).exists()
    ]
    assert len(links) > 20
    assert missing == []


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs a source checkout")
def test_the_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    pages = [str(page.relative_to(ROOT)) for page in sorted(DOCS.rglob("*.md"))]
    assert [page for page in pages if page not in text] == []
