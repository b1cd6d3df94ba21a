"""Sweeps made up of random predictions."""

import json
import re
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LOSSES = ("binary_cross_entropy", "dice")
ACTIVATIONS = ("sigmoid", "normal_cdf", "arctan")


def _tallied(**key: Any) -> dict[str, Any]:
    """Of predictions that depend on all of the key but the framework."""
    from examples.segmentation.metrics import Tally

    name = "/".join(str(value) for part, value in key.items() if part != "framework")
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    place = np.add.outer(*[np.linspace(-1, 1, 24) ** 2] * 2)[None, ..., None]
    masks = (place + rng.normal(0, 0.1, (6, 24, 24, 1)) < 0.6).astype(np.uint8)
    steep = 8 if key["loss"] == "dice" else 3
    steep *= {"sigmoid": 1.2, "normal_cdf": 1.6}.get(key["activation"], 0.9)
    raw = steep * (0.6 - place + rng.normal(0, 0.25, masks.shape))
    tally = Tally()
    tally.update(1 / (1 + np.exp(-raw)), masks)
    return tally.result()


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Path]:
    """Writes a sweep whose runs are all done; `validation(**key)` gives what they found."""

    def made(
        name: str = "sweep",
        data: str = "synthetic",
        frameworks: tuple[str, ...] = ("torch",),
        activations: tuple[str, ...] = ACTIVATIONS,
        losses: tuple[str, ...] = LOSSES,
        folds: int = 2,
        seeds: tuple[int, ...] = (0,),
        validation: Callable[..., dict[str, Any]] = _tallied,
    ) -> Path:
        from examples.segmentation.options import Options

        folder = tmp_path / name
        base = {"data": None if data == "synthetic" else data, "folds": folds}
        asked = {"format": 1, "implementations": frameworks, "activations": activations}
        asked |= {"losses": losses, "seeds": seeds, "base": base}
        parts = ("data", "framework", "activation", "loss", "fold", "seed")
        every = product([data], frameworks, activations, losses, range(folds), seeds)
        (folder / "runs").mkdir(parents=True)
        (folder / "sweep.json").write_text(json.dumps(asked))
        for values in every:
            key = dict(zip(parts, values, strict=True))
            run = folder / "runs" / re.sub(r"[^\w.-]", "-", "_".join(map(str, values)))
            found = {"format": 1, **key, "folds": folds, "epoch": 7, "epochs": 17, "seconds": 60.0}
            found |= {"stopped": "no progress for 10 epochs", "validation": validation(**key)}
            run.mkdir()
            own = Options(data=base["data"], fold=key["fold"], folds=folds).as_dict()
            (run / "config.json").write_text(json.dumps({"format": 1, "options": own, "data": {}}))
            (run / "result.json").write_text(json.dumps(found))
        return folder

    return made
