"""Records, reports and functions made by earlier code are read, compared and judged as they were.

`tests/fixtures/parity` holds them, and what the judge said; its `make.py` wrote them.
"""

import hashlib
import json
import math
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import weights

HERE = Path(__file__).parents[1] / "fixtures" / "parity"
sys.path.insert(0, str(HERE))
make = import_module("make")
EXPECTED = json.loads((HERE / "expected.json").read_text())
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
ROUNDING = 1e-6
"""Errors of this size are rounding, which differs from one machine to the next."""


def near(found: float, expected: float) -> bool:
    return math.isclose(found, expected, rel_tol=0.02, abs_tol=ROUNDING)


def check(found: Any, expected: Any, place: str = "") -> None:
    """The same words, and numbers that are the same but for rounding."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), place
        for key, value in expected.items():
            check(found[key], value, f"{place}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, value in enumerate(expected):
            check(found[number], value, f"{place}/{number}")
    elif isinstance(expected, float):
        assert near(found, expected), f"{place}: {found}, not {expected}"
    elif isinstance(expected, str):
        words = [" ".join(NUMBER.sub("#", text).split()) for text in (found, expected)]
        assert words[0] == words[1], place
        numbers = [NUMBER.findall(text.replace(",", "")) for text in (found, expected)]
        for one, two in zip(*numbers, strict=True):
            assert near(float(one), float(two)), f"{place}: {found}, not {expected}"
    else:
        assert found == expected, place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make.given(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", make.COMMANDS)
def test_a_command_says_what_it_said(folder: Path, name: str) -> None:
    pytest.importorskip("torch")
    check(make.judged(make.COMMANDS[name], folder), EXPECTED[name])


def test_an_assertion_says_what_it_said() -> None:
    pytest.importorskip("torch")
    check(make.assertion(), EXPECTED["assert_parity"])


def test_weights_that_were_saved_are_read() -> None:
    pytest.importorskip("torch")
    expected, model = make.layers(), make.layers()
    for tensor in model.parameters():
        tensor.data.zero_()
    assert len(weights.load(HERE / "weights.safetensors", model)) == 3
    for one, two in zip(model.parameters(), expected.parameters(), strict=True):
        assert np.array_equal(one.detach().numpy(), two.detach().numpy())


def test_the_shipped_reference_is_the_one_that_was() -> None:
    from parity.reference import REFERENCE_PATH

    digest = hashlib.sha256(REFERENCE_PATH.read_bytes()).hexdigest()
    assert digest == "5044a3370eb8671fc698e3a6792c6f212a8ef39ee77d44c36e4389e4a7ec97bd"
