"""The examples are not installed: they are found in the clone."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run of made-up raw outputs: dogs at `outputs[when]`, cats at minus those."""

    def made(
        name: str, outputs: dict[str, Sequence[float]], synthetic: bool = False, **options: object
    ) -> Path:
        from examples.cats_vs_dogs.options import Options
        from examples.common.runs import Run

        asked = Options(data=None if synthetic else "pictures", **options).as_dict()
        config = {"options": asked, "data": {"synthetic": synthetic}, "device": "cpu"}
        run = Run.create(tmp_path / name, config)
        for when, dogs in outputs.items():
            raw = np.concatenate([-np.array(dogs), dogs]).astype(np.float32)
            labels = np.repeat(np.arange(2, dtype=np.uint8), len(dogs))
            arrays = {}
            for split in ("train", "validation"):
                names = np.array([f"{split}/{i}.jpg" for i in range(len(raw))])
                parts = {"raw": raw, "labels": labels, "names": names}
                arrays |= {f"{split}_{part}": values for part, values in parts.items()}
            run.write_outputs(when, arrays)
        if "full" in outputs:
            run.config |= {"finished": True, "stopped": "the cap of 9 epochs", "epochs": 9}
            run.write_config()
        return run.folder

    return made


@pytest.fixture
def own_environment() -> Iterator[None]:
    """Changes of the environment end with the test; Dask sets some variables for its workers."""
    before = os.environ.copy()
    yield
    os.environ.clear()
    os.environ.update(before)
