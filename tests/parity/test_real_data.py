"""`run --inputs` on real raw outputs: the job that users come for."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

DATA = os.environ.get("SEGACT_DATA")


@pytest.mark.skipif(not DATA, reason="SEGACT_DATA is not set")
@pytest.mark.parametrize(("name", "losses"), [("nuclei", 70), ("cats_vs_dogs", 63)])
def test_all_implementations_agree(
    segact_parity: Run, tmp_path: Path, name: str, losses: int
) -> None:
    path = Path(str(DATA)).resolve() / "real_logits" / f"{name}.npz"
    assert path.is_file(), f"SEGACT_DATA is set and {path} is missing"
    with np.load(path) as whole:  # every fifth image
        np.savez(tmp_path / "some.npz", **{key: whole[key][::5] for key in whole.files})
    result = segact_parity("run", "--inputs", "some.npz", "--json", "all.json")
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((tmp_path / "all.json").read_text())
    ran = [i["name"] for i in found["implementations"] if not i["skipped"]]
    assert ran
    assert len(found["losses"]) == losses
    assert sum(row["beside"] is not None for row in found["losses"]) == 1
    for row in found["losses"]:
        assert sorted(row["values"]) == sorted(ran)
        assert row["spread"] <= 1e-6, row
        for value in row["values"].values():
            assert value == pytest.approx(row["expected"], rel=2e-6), row
