"""A user's file: what is refused, what is sampled, and the verdict."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from parity.judge.judgement import Judgement
from parity.judge.run import Outcome
from parity.judge.user_logits import (
    InputError,
    LossRow,
    baselines,
    judge_file,
    load_file,
    look_like_probabilities,
    sample,
)
from parity.reference import float64 as oracle
from parity.report import accuracy_tables as report
from parity.suite.cases import file_cases
from parity.suite.inputs import Inputs
from parity.suite.records import Record, RecordWriter

X = np.linspace(-5, 5, 12, dtype=np.float32).reshape(3, 4)
Y = (X > 1).astype(np.uint8)


def saved(tmp_path: Path, **arrays: Any) -> Path:
    """An .npz of the arrays."""
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("targets", [Y, Y.astype(bool), Y * 0.5, Y.astype(np.int64)])
def test_good_files(tmp_path: Path, dtype: type, targets: Any) -> None:
    inputs = load_file(saved(tmp_path, logits=X.astype(dtype), targets=targets))
    assert inputs["x"].dtype == inputs["y"].dtype == np.promote_types(dtype, np.float32)
    assert np.array_equal(inputs["x"], X.astype(dtype))
    assert np.array_equal(inputs["y"], targets.astype(dtype))
    assert not look_like_probabilities(inputs)


def test_probabilities_are_noticed(tmp_path: Path) -> None:
    p = 1 / (1 + np.exp(-X))
    assert look_like_probabilities(load_file(saved(tmp_path, logits=p, targets=Y)))


def with_one(array: Any, value: float) -> Any:
    """The array as float64 with one entry replaced."""
    changed = np.asarray(array, np.float64).copy()
    changed.flat[5] = value
    return changed


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"logits": X}, "lacks targets"),
        ({"x": X}, "lacks logits and targets"),
        ({"logits": X, "targets": Y[:2]}, r"\(3, 4\) and targets \(2, 4\) differ in shape"),
        ({"logits": X, "targets": Y[..., None]}, "differ in shape"),
        ({"logits": X.astype(int), "targets": Y}, "logits are int64; wanted float16, float32"),
        ({"logits": with_one(X, np.nan), "targets": Y}, "NaN or infinity"),
        ({"logits": with_one(X, np.inf), "targets": Y}, "NaN or infinity"),
        ({"logits": X, "targets": Y * 255}, r"outside \[0, 1\]: they go from 0 to 255"),
        ({"logits": X, "targets": with_one(Y, -0.1)}, r"outside \[0, 1\]: they go from -0.1 to 1"),
        ({"logits": X, "targets": with_one(Y, np.nan)}, "targets hold NaN"),
        ({"logits": X, "targets": Y.astype(str)}, "targets are <U"),
        ({"logits": X[:0], "targets": Y[:0]}, "empty"),
        ({"logits": X.astype(object), "targets": Y}, "object arrays"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_file(saved(tmp_path, **arrays))
    assert "mine.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_file(tmp_path / "absent.npz")
    with pytest.raises(InputError, match="no such file"):
        load_file(tmp_path)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match=r"text\.npz: not a readable"):
        load_file(tmp_path / "text.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.npz: not a readable"):
        load_file(tmp_path / "empty.npz")
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(InputError, match=r"one\.npy: not an \.npz"):
        load_file(tmp_path / "one.npy")
    whole = saved(tmp_path, logits=X, targets=Y).read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"half\.npz: not a readable"):
        load_file(tmp_path / "half.npz")
    broken = bytearray(whole)
    broken[150] ^= 0xFF
    (tmp_path / "broken.npz").write_bytes(broken)
    with pytest.raises(InputError, match=r"broken\.npz"):
        load_file(tmp_path / "broken.npz")


def test_big_endian_arrays_are_converted(tmp_path: Path) -> None:
    inputs = load_file(saved(tmp_path, logits=X.astype(">f4"), targets=Y.astype(">f8")))
    assert inputs["x"].dtype.isnative
    assert np.array_equal(inputs["x"], X)
    assert np.array_equal(inputs["y"], Y)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_are_refused_or_read(tmp_path: Path, save: Any) -> None:
    """Whatever byte is flipped, there is one plain line or a file that can be used."""
    path = tmp_path / "mine.npz"
    save(path, logits=X, targets=Y)
    whole = path.read_bytes()
    refused = 0
    for at in range(len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 0xFF
        path.write_bytes(broken)
        try:
            load_file(path)
        except InputError as error:
            refused += "\n" not in str(error)
    assert refused > len(whole) / 4


def test_encrypted_files_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, logits=X, targets=Y)
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(mark, at + 1)
    path.write_bytes(content)
    with pytest.raises(InputError, match="encrypted"):
        load_file(path)


def test_the_report_of_a_file_fits_80_columns(tmp_path: Path) -> None:
    out = Console(width=80, no_color=True, highlight=False)
    with out.capture() as text:
        report.print_report(out, judged(tmp_path))
    lines = [line.rstrip() for line in text.get().splitlines()]
    assert max(map(len, lines)) <= 80
    assert "…" not in "\n".join(lines)
    for words in (
        "losses on the file",
        "float32, element by element",
        "sums over all elements",
        "shown, not judged",
        "0 of 120 raw outputs (0.00%) pass 16",
        "published, epsilon 1e-7",
    ):
        assert any(line.startswith(words) for line in lines), words


def test_other_formulas_are_shown_beside_the_sigmoid(tmp_path: Path) -> None:
    x = np.array([[-40, -1, 0, 2, 30, 200]], np.float32)
    y = np.array([[1, 0, 1, 1, 0, 0]], np.float32)
    found = baselines({"x": x, "y": y}, 270 / 6, x)
    assert (found.outputs, found.past_16) == (6, 3)
    assert found.stuck == 0
    by_name = {formula.name: formula for formula in found.formulas}
    raw, torch, keras, published = by_name.values()
    assert found.off(raw.loss) < 0.01
    assert raw.stuck == 0
    assert found.off(torch.loss) > 0.1
    assert torch.stuck == 2
    assert keras.stuck == 3
    assert published.stuck == 2
    judgement = judged(tmp_path)
    (row,) = [row for row in judgement.losses if row.baselines]
    assert (row.activation, row.loss) == ("sigmoid", "binary_cross_entropy,mean")
    shown = judgement.as_dict()["losses"][0]["beside"]
    assert len(shown["formulas"]) == 4


def test_sample_holds_2000_seeded_elements_and_the_extremes() -> None:
    x = np.random.default_rng(1).normal(size=50_000).astype(np.float32)
    chosen = sample({"x": x, "y": x})
    assert 2000 <= len(chosen) <= 2004
    assert {int(np.argmin(x)), int(np.argmax(x)), int(np.argmin(np.abs(x)))} <= set(chosen.tolist())
    assert np.array_equal(chosen, sample({"x": x, "y": x}))
    few = sample({"x": x[:10], "y": x[:10]})
    assert few.tolist() == list(range(10))


def record_of(inputs: Inputs, path: Path, name: str, wrong: str = "", factor: float = 1) -> Record:
    """The oracle's results, rounded to float32, as an implementation's; one case may be wrong."""
    writer = RecordWriter(name, "cpu")
    for case in file_cases(inputs):
        writer.add_inputs(case.input_set, inputs)
        found = {k: v.astype(np.float32) for k, v in oracle.evaluate(case.bind(inputs)).items()}
        if case.name == wrong:
            found["value"] = found["value"] * np.float32(factor)
        writer.add(case, found)
    writer.write(path)
    return Record.load(path)


def judged(tmp_path: Path, wrong: str = "", factor: float = 1, soft: bool = False) -> Judgement:
    """Two implementations on a small file, the second wrong in one case."""
    rng = np.random.default_rng(4)
    x = rng.normal(0, 3, (4, 30)).astype(np.float32)
    y = (rng.uniform(size=x.shape) if soft else rng.uniform(size=x.shape) < 0.5).astype(np.float32)
    inputs = {"x": x, "y": y}
    records = [
        record_of(inputs, tmp_path / "a", "torch"),
        record_of(inputs, tmp_path / "b", "keras-jax", wrong, factor),
    ]
    judgement = Judgement([Outcome(record.implementation, record) for record in records])
    for found, row in judge_file(inputs, records):
        judgement.measurements += found
        judgement.losses += [row] if row else []
    return judgement


@pytest.mark.parametrize("soft", [False, True])
def test_two_right_implementations_pass(tmp_path: Path, soft: bool) -> None:
    judgement = judged(tmp_path, soft=soft)
    assert judgement.failures() == []
    assert judgement.passed
    assert len(judgement.losses) == 7 * (9 if soft else 10)
    sides = {(m.left, m.right) for m in judgement.measurements}
    assert sides == {
        ("torch", "keras-jax"),
        *((name, truth) for name in ("torch", "keras-jax") for truth in ("oracle", "reference")),
        ("oracle", "reference"),
    }


@pytest.mark.parametrize(
    ("wrong", "factor", "words"),
    [
        ("file-float32/arctan/logcdf", 1 + 1e-5, "arctan logcdf value"),
        ("file-float32/linear/cdf", 1 + 1e-5, "linear cdf value"),
        ("file-float32/softsign/dice,per_sample", 1 + 4e-6, "softsign dice,per_sample"),
        ("file-float32/sigmoid/lovasz", 1 + 4e-6, "sigmoid lovasz"),
        ("file-float32/hardtanh/binary_cross_entropy,mean", np.nan, "hardtanh binary_cross"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, wrong: str, factor: float, words: str) -> None:
    judgement = judged(tmp_path, wrong, factor)
    failures = judgement.failures()
    assert failures
    assert all(words in line and "keras-jax" in line for line in failures)


def test_losses_must_agree_to_1e_6() -> None:
    near = LossRow("arctan", "dice", 0.3, {"torch": 0.3, "keras-jax": 0.3 * (1 + 9e-7)})
    apart = LossRow("arctan", "dice", 0.3, {"torch": 0.3, "keras-jax": 0.3 * (1 + 1.1e-6)})
    lost = LossRow("arctan", "dice", 0.3, {"torch": 0.3, "keras-jax": float("nan")})
    zero = LossRow("arctan", "dice", 0.0, {"torch": 0.0, "keras-jax": 0.0})
    assert near.passed
    assert zero.passed
    assert not apart.passed
    assert not lost.passed
