"""What the tests of the judge share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from port import keras_cnn, torch_cnn

from parity import weights
from parity.reference import REFERENCE_PATH
from parity.reference import float64 as oracle
from parity.suite.cases import judged_cases
from parity.suite.inputs import input_sets
from parity.suite.records import Record, RecordWriter

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def segact_parity(tmp_path: Path) -> Run:
    """Runs `python -m parity` in an empty folder, with the packages in `ahead` first."""

    def run(*arguments: object, ahead: Path | None = None) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(ahead), str(ROOT)] if ahead else [str(ROOT)])
        command = [sys.executable, "-m", "parity", *map(str, arguments)]
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False
        )

    return run


@pytest.fixture
def copy_of_package(tmp_path: Path) -> Callable[[str], Path]:
    """Copies a package into a folder of its own; returns the copy."""

    def copy(name: str) -> Path:
        target = tmp_path / "planted" / name
        shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        return target

    return copy


@pytest.fixture(scope="session")
def perfect_record_in() -> Callable[..., Path]:
    """Writes the reference (or the oracle, where that judges), rounded to each case's dtype, as the
    record of an implementation, into a folder.

    `change` may alter the results before they are written.
    """

    def write(
        folder: Path,
        name: str = "torch",
        file: str = "",
        change: Callable[[Any, dict[str, Any]], None] | None = None,
    ) -> Path:
        reference = Record.load(REFERENCE_PATH)
        writer = RecordWriter(name, "cpu")
        for input_set, inputs in input_sets().items():
            writer.add_inputs(input_set, inputs)
        for case in judged_cases():
            if case.judged_by_float64:
                exact = oracle.evaluate(case.bind(input_sets()[case.input_set]))
            else:
                exact = reference.result(case)
            with np.errstate(all="ignore"):
                found = {k: v.astype(case.dtype) for k, v in exact.items()}
            found = {
                k: np.nan_to_num(v, nan=0.0, posinf=np.inf, neginf=-np.inf)
                for k, v in found.items()
            }
            if change:
                change(case, found)
            writer.add(case, found)
        path = folder / (file or f"{name}.safetensors")
        writer.write(path)
        return path

    return write


@pytest.fixture
def perfect_record(tmp_path: Path, perfect_record_in: Callable[..., Path]) -> Callable[..., Path]:
    """`perfect_record_in` the test's own folder."""
    return partial(perfect_record_in, tmp_path)


@pytest.fixture
def ported() -> tuple[Any, Any]:
    """A sound port."""
    one, other = keras_cnn(), torch_cnn()
    weights.copy(one, other, settings="copy")
    return one, other
