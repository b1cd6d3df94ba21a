"""The published test space beside ours: probabilities, losses, marks, and what is wrong with it."""

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("typer", reason="the examples' own needs are not installed")

import segact_torch  # noqa: E402
from examples.common.runs import RunError  # noqa: E402
from examples.segmentation import published  # noqa: E402
from examples.segmentation.published import Row  # noqa: E402
from parity.reference import multiprecision as reference  # noqa: E402
from parity.suite.case import ACTIVATIONS, Case  # noqa: E402
from parity.suite.inputs import Inputs, grid  # noqa: E402

DATA = os.environ.get("SEGACT_DATA")
EPSILON = 1e-7
LIMIT = 1.2e-7
"""Two steps of float32 below 1."""
MOVED = {("normal_cdf", "bce"), ("hardtanh", "bce"), ("linear", "bce")}


def far_tails() -> np.ndarray:
    """Every regime of float32 up to 1e19, past which the published x^2 overflows."""
    x = grid("float32")
    return x[np.abs(x) < 1.1e19]


def raw_outputs(name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Batches of every size of raw output; each is one to linear."""
    return {
        "usual": rng.normal(0, 3, (8, 1, 96, 96)).astype(np.float32),
        "far": rng.uniform(-200, 200, (8, 1, 96, 96)).astype(np.float32),
        "tails": far_tails(),
    }


@pytest.fixture(scope="module")
def batch() -> Inputs:
    return published.default_batch()


@pytest.fixture(scope="module")
def rows(batch: Inputs) -> dict[tuple[str, str], Row]:
    return {(row.activation, row.loss): row for row in published.rows(batch)}


def tensors(batch: Inputs, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.from_numpy(batch[key]).to(dtype) for key in ("x", "y"))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_our_activations_with_its_epsilon_are_the_published(ns, rng, name):
    """In both frameworks; sigmoid has no epsilon, and 1e-7 alone moves it by up to 1e-7."""
    ours = ns.package.get_activation(name, epsilon=published.epsilon(name))
    squeezed = ns.package.get_activation(name, epsilon=EPSILON)
    for regime, x in raw_outputs(name, rng).items():
        theirs = published.activation(name, torch.from_numpy(x)).numpy().astype(np.float64)
        assert np.abs(ns.numpy(ours(ns.array(x))) - theirs).max() <= LIMIT, regime
        more = 2**-24 if name == "sigmoid" else 0
        assert np.abs(ns.numpy(squeezed(ns.array(x))) - theirs).max() <= LIMIT + more, regime


def test_only_sigmoid_is_published_without_an_epsilon():
    x = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    for name in ACTIVATIONS:
        theirs = published.activation(name, x)
        ends = (float(theirs.min()), 1 - float(theirs.max()))
        ours = segact_torch.get_activation(name, epsilon=published.epsilon(name))(x)
        assert torch.allclose(theirs, ours, rtol=0, atol=1e-15), name
        assert all(end > 0.99 * EPSILON for end in ends) == (name != "sigmoid"), name


def test_what_float32_makes_of_1_minus_1e_minus_7():
    """The largest probabilities, as steps of 2^-24 below 1, that the notes speak of."""
    x = torch.tensor([-1e18, 1e18])
    found = {name: (1 - published.activation(name, x)[1].double()) * 2**24 for name in ACTIVATIONS}
    assert {name: float(steps) for name, steps in found.items()} == {
        **dict.fromkeys(ACTIVATIONS, 2.0),
        **{"sigmoid": 0.0, "arctan": 1.0, "linear": 1.0},
    }
    ends = [-np.log(steps * 2.0**-24) for steps in (2, 1)]
    assert [f"{end:.3f}" for end in (*ends, -np.log(EPSILON))] == ["15.942", "16.636", "16.118"]


def test_ours_is_the_reference_in_every_cell(rows):
    for key, row in rows.items():
        assert row.ours == pytest.approx(row.reference, rel=1e-6), key


def test_the_cells_that_float32_moves_are_marked(rows):
    assert {key for key, row in rows.items() if row.mark == "moved"} == MOVED
    assert {key for key, row in rows.items() if row.mark} == {*MOVED, published.WRONG}
    for key in MOVED:
        assert abs(rows[key].difference) > 1e-4, key


def test_the_rounding_of_probabilities_alone_moves_them(rows, batch):
    """In float64 nothing is; the logarithms of the float32 probabilities explain all of it."""
    x, y = tensors(batch)
    for name, of in MOVED:
        wide = float(published.loss(name, of, *tensors(batch, torch.float64)))
        assert wide == pytest.approx(rows[name, of].reference, rel=1e-6)
        p = published.activation(name, x).double()
        rounded = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
        assert rows[name, of].published == pytest.approx(float(rounded), rel=1e-6)


def test_every_formula_but_one_is_the_loss_it_stands_for(rows, batch):
    """In float64, where rounding hides nothing."""
    x, y = tensors(batch, torch.float64)
    off = {
        key
        for key, row in rows.items()
        if float(published.loss(*key, x, y)) != pytest.approx(row.reference, rel=1e-6)
    }
    assert off == {published.WRONG}


def test_inverse_square_root_cross_entropy_is_ours_and_not_the_published(rows):
    row = rows[published.WRONG]
    assert row.mark == "wrong"
    assert row.exact == pytest.approx(row.reference, rel=1e-6)
    assert abs(row.published - row.reference) > 0.1


@pytest.mark.parametrize("x", [-30.0, -2.0, -0.5, 0.5, 2.0, 30.0])
def test_the_lost_x_makes_right_and_wrong_positives_cost_the_same(ns, x):
    """Each element against the reference, in both frameworks: the published value knows no sign."""
    raw, ones = np.array([x], np.float32), np.ones(1, np.float32)
    case = Case("", "float32", "inverse_square_root", "binary_cross_entropy", "y=1")
    exact = reference.evaluate(case.bind({"x": raw, "y": ones}))
    f = ns.package.get_activation("inverse_square_root")
    value, (slope, *_) = ns.gradients(
        lambda v: ns.elementwise("binary_cross_entropy", ns.array(ones), v, f), raw
    )
    assert value == pytest.approx(exact["value"], rel=1e-6)
    assert slope == pytest.approx(exact["grad_x"], rel=1e-6)
    assert slope < 0  # a positive is pulled to the right, wherever it is

    both = [torch.tensor([side], dtype=torch.float64, requires_grad=True) for side in (x, -x)]
    theirs = [published.loss(*published.WRONG, at, torch.ones_like(at)) for at in both]
    assert theirs[0].item() == theirs[1].item() < np.log(2)
    theirs[0].backward()
    assert np.sign(both[0].grad.item()) == np.sign(x)  # to 0, from either side


def test_negatives_of_the_published_inverse_square_root_are_right():
    """It is the term of a target of 1 that has lost its x."""
    x = torch.linspace(-20, 20, 401, dtype=torch.float64)
    y = torch.zeros_like(x)
    ours = segact_torch.binary_cross_entropy(x, y, "inverse_square_root")
    assert float(published.loss(*published.WRONG, x, y)) == pytest.approx(float(ours), rel=1e-9)


def test_far_out_the_published_raw_losses_break_and_ours_do_not():
    for targets, theirs in (([1, 0], np.inf), ([0, 1], np.nan)):  # both wrong, both right
        far = {"x": np.float32([-(2.0**26), 2.0**26]), "y": np.float32(targets)}
        row = next(r for r in published.rows(far) if (r.activation, r.loss) == ("softsign", "bce"))
        assert row.published == pytest.approx(theirs, nan_ok=True)
        assert row.mark == "cancels"
        assert row.ours == pytest.approx(row.reference, rel=1e-6)
        assert row.ours == pytest.approx(27 * np.log(2) if targets[0] else 0.5**27, rel=1e-6)


def test_past_the_root_of_the_largest_number_the_published_inverse_square_root_is_one_half():
    x = torch.tensor([2e19])
    assert published.activation("inverse_square_root", x).item() == 0.5
    assert segact_torch.get_activation("inverse_square_root", epsilon=EPSILON)(x).item() > 0.9999998


def test_the_default_batch_is_the_same_every_time_and_goes_far_out(batch):
    again = published.default_batch()
    assert all(np.array_equal(batch[key], again[key]) for key in batch)
    x, y = batch["x"], batch["y"]
    assert x.shape == y.shape == (2, 1, 16, 16)
    assert {x.dtype, y.dtype} == {np.dtype(np.float32)}
    assert set(np.unique(y)) == {0, 1}
    assert all(np.any((np.abs(x) > 100) & ((x > 0) == sure)) for sure in (True, False))
    assert y.flat[x.argmax()] == 0


def test_large_batches_are_held_against_float64(batch, monkeypatch):
    exact = published.reference_loss("normal_cdf", "bce", batch, EPSILON)
    assert "50 digits" in " ".join(published.words([], batch))
    monkeypatch.setattr(published, "MOST", 10)
    assert published.reference_loss("normal_cdf", "bce", batch, EPSILON) == pytest.approx(
        exact, rel=1e-12
    )
    assert "reference: float64" in " ".join(published.words([], batch))


def test_the_command_prints_the_table_and_writes_it_as_markdown(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 4, (2, 1, 5, 5)).astype(np.float32)
    np.savez(tmp_path / "some.npz", logits=logits, targets=logits > 1)
    published.command(tmp_path / "some.npz", tmp_path / "table.md")
    printed, text = capsys.readouterr().out, (tmp_path / "table.md").read_text()
    assert max(map(len, printed.splitlines())) <= 100
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(ACTIVATIONS) * len(published.LOSSES)
    assert {line.count("|") for line in table} == {9}
    lines = [line for line in table if line.startswith("| inverse_square_root | bce | **")]
    assert len(lines) == 1
    assert lines[0].endswith("| wrong |")
    assert "50 raw outputs" in text
    assert "50 raw outputs" in printed
    assert f"wrong: {published.NOTES['wrong']}" in text
    assert "cancels" not in text
    for row in published.rows(published.read(tmp_path / "some.npz")):
        cells = (f"{row.published:.8g}", f"{row.squeezed:.8g}", f"{row.reference:.8g}")
        for cell in cells:
            assert cell in text
            assert cell in printed


def test_files_that_are_refused(tmp_path):
    with pytest.raises(RunError, match=r"none\.npz: no such file"):
        published.command(tmp_path / "none.npz")
    np.savez(tmp_path / "wide.npz", logits=np.array([1e300, 0.0]), targets=np.array([0, 1]))
    with pytest.raises(RunError, match=r"wide\.npz: logits beyond the range of float32"):
        published.read(tmp_path / "wide.npz")


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(published, "find_spec", lambda name: None if name == "torch" else name)
    with pytest.raises(RunError, match="published needs torch: not installed"):
        published.command()


@pytest.mark.skipif(not DATA, reason="SEGACT_DATA is not set")
def test_real_raw_outputs():
    """The nuclei's: the same cells are marked, and ours is the reference."""
    path = Path(DATA, "real_logits", "nuclei.npz")
    assert path.is_file(), f"SEGACT_DATA is set and {path} is missing"
    batch = published.read(path)
    rows = published.rows(batch)
    assert {(row.activation, row.loss) for row in rows if row.mark} == {*MOVED, published.WRONG}
    for row in rows:
        assert row.ours == pytest.approx(row.reference, rel=1e-6), row
    assert max(published.apart(batch).values()) <= LIMIT
