"""Records: the results of one implementation for every case, in a safetensors file.

Tensors: `inputs/<input set>/<array>` once per set, `<case name>/<part>` per case. The header has
the implementation, the versions, the machine and the seed.
"""

import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.common.extras import imports_of
from parity.common.files import write_atomically
from parity.common.versions import versions
from parity.suite.case import Case
from parity.suite.inputs import SEED, Inputs

with imports_of("parity"):
    from safetensors import SafetensorError, safe_open
    from safetensors.numpy import save

FORMAT = "1"
STANDARD = "standard"
"""The cases of a record that does not name them: those of `cases.judged_cases`."""

_REQUIRED = ("implementation", "device", "seed", "platform", "versions")


class RecordError(ValueError):
    """A record that cannot be read or compared; the message is one line."""


@dataclass
class RecordWriter:
    """Collects the results of one implementation and writes them at once."""

    implementation: str
    device: str
    cases: str = STANDARD
    framework: str = ""
    tensors: dict[str, Array] = field(default_factory=dict)

    def add_inputs(self, name: str, inputs: Inputs) -> None:
        """Keep an input set under its name."""
        for key, array in inputs.items():
            self.tensors[f"inputs/{name}/{key}"] = np.array(array, order="C")

    def add(self, case: Case, result: dict[str, Array]) -> None:
        """Keep the results of a case."""
        for part in case.parts:
            self.tensors[f"{case.name}/{part}"] = np.array(result[part], order="C")

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        header = {
            "format": f"segact-parity {FORMAT}",
            "implementation": self.implementation,
            "device": self.device,
            "cases": self.cases,
            "framework": self.framework,
            "seed": str(SEED),
            "platform": f"{platform.system()} {platform.machine()}",
            "versions": json.dumps(versions()),
        }
        write_atomically(path, save(self.tensors, metadata=header))


@dataclass(frozen=True)
class Record:
    """A record on disk, opened and checked; arrays are read when they are needed."""

    path: Path
    implementation: str
    device: str
    seed: str
    platform: str
    versions: dict[str, str]
    cases: str
    framework: str
    _file: Any = field(repr=False, compare=False)

    @classmethod
    def load(cls, path: Path | str) -> "Record":
        """Open a record.

        Raises `RecordError`: a missing file, one that is truncated or no safetensors file, one that
        is not a parity record, one of another format.
        """
        path = Path(path)
        if not path.is_file():
            raise RecordError(f"{path}: no such record")
        try:
            file = safe_open(path, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise RecordError(f"{path}: truncated or not a safetensors file ({error})") from error
        header: dict[str, str] = file.metadata() or {}
        made_by, _, number = header.get("format", "").partition(" ")
        if made_by != "segact-parity":
            raise RecordError(f"{path}: a safetensors file, but not a record of segact-parity")
        if number != FORMAT:
            raise RecordError(
                f"{path}: record format {number or 'unknown'}, this is format {FORMAT}"
            )
        missing = [key for key in _REQUIRED if key not in header]
        if missing:
            raise RecordError(f"{path}: the record's header lacks {', '.join(missing)}")
        try:
            texts = dict(json.loads(header["versions"]))
            found = {str(key): str(value) for key, value in texts.items()}
        except (ValueError, TypeError, RecursionError) as error:
            raise RecordError(f"{path}: the versions in the record's header are no JSON") from error
        fields = {key: header[key] for key in _REQUIRED if key != "versions"}
        fields |= {"cases": header.get("cases", STANDARD), "framework": header.get("framework", "")}
        return cls(path=path, versions=found, _file=file, **fields)

    @cached_property
    def keys(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self._file.keys())

    @cached_property
    def _arrays(self) -> dict[str, list[str]]:
        """The names of the arrays of every input set."""
        found: dict[str, list[str]] = {}
        for kind, *names in (key.split("/") for key in sorted(self.keys)):
            if kind == "inputs" and len(names) == 2:
                found.setdefault(names[0], []).append(names[1])
        return found

    @property
    def input_sets(self) -> tuple[str, ...]:
        """The names of the input sets."""
        return tuple(self._arrays)

    def tensor(self, key: str) -> Array:
        """The tensor of that name."""
        if key not in self.keys:
            raise RecordError(f"{self.path}: holds no {key}")
        try:
            array: Array = self._file.get_tensor(key)
        except (SafetensorError, OSError, TypeError, AttributeError) as error:
            # NumPy has neither bfloat16 nor the types of 8 bits
            raise RecordError(f"{self.path}: {key} cannot be read ({error})") from error
        if array.dtype.kind not in "fiub":
            raise RecordError(f"{self.path}: {key} is {array.dtype}; wanted real numbers")
        return array

    def inputs(self, name: str) -> Inputs:
        """The arrays of an input set."""
        if name not in self._arrays:
            raise RecordError(f"{self.path}: holds no input set {name}")
        return {array: self.tensor(f"inputs/{name}/{array}") for array in self._arrays[name]}

    def result(self, case: Case) -> dict[str, Array]:
        """The parts of a case: `value` and its gradients."""
        return {part: self.tensor(f"{case.name}/{part}") for part in case.parts}

    def has(self, case: Case) -> bool:
        """Whether the record holds every part of the case."""
        return all(f"{case.name}/{part}" in self.keys for part in case.parts)

    def lacks(self, cases: Iterable[Case]) -> list[str]:
        """The names of the missing cases; the oracle computes some that the reference lacks."""
        reference = self.implementation == "reference"
        return [c.name for c in cases if not (self.has(c) or (reference and c.judged_by_float64))]

    def check_comparable(self, other: "Record", cases: Iterable[Case]) -> None:
        """Raises `RecordError` unless both records hold all `cases`, on equal inputs."""
        cases = list(cases)
        self.check_cases(other)
        for record in (self, other):
            absent = record.lacks(cases)
            if absent:
                raise RecordError(
                    f"{record.path}: other cases; {len(absent)} are missing, first {absent[0]}"
                )
        self.check_inputs(other, dict.fromkeys(case.input_set for case in cases))

    def check_cases(self, other: "Record") -> None:
        """Raises `RecordError` if the two records are of different cases."""
        if self.cases != other.cases:
            raise RecordError(
                f"{other.path}: other cases; it holds {other.cases}, {self.path} holds {self.cases}"
            )

    def check_inputs(self, other: "Record", names: Iterable[str]) -> None:
        """Raises `RecordError` unless both records hold equal input sets of these names."""
        for name in names:
            mine, theirs = self.inputs(name), other.inputs(name)
            same = mine.keys() == theirs.keys() and all(
                mine[key].dtype == theirs[key].dtype
                and np.array_equal(mine[key], theirs[key], equal_nan=True)
                for key in mine
            )
            if not same:
                raise RecordError(f"{self.path} and {other.path}: the inputs of {name} differ")
