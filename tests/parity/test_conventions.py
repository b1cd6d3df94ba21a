"""`segact-parity conventions`: the facts that the table is about, and the command around them."""

import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from parity.conventions import results as conventions
from parity.conventions import worker as stock
from parity.report import convention_tables
from parity.report.convention_groups import number

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]
Found = tuple[float, float]

KERAS_2 = pytest.mark.needs("tensorflow", "tf_keras")
TENSORFLOW = pytest.mark.needs("keras", "tensorflow")
JAX = pytest.mark.needs("keras", "jax")
KERAS_TORCH = pytest.mark.needs("keras", "torch")
TORCH = pytest.mark.needs("torch")
MODULES = {
    "keras-tensorflow": {"keras", "tensorflow"},
    "keras-jax": {"keras", "jax"},
    "keras-torch": {"keras", "torch"},
    "tf-keras": {"tensorflow", "tf_keras"},
    "torch": {"torch"},
}


def command(
    *arguments: str, folder: Path, ahead: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m parity conventions`, in a folder, with the packages in `ahead` first."""
    path = os.pathsep.join(map(str, filter(None, (ahead, ROOT))))
    return subprocess.run(
        [sys.executable, "-m", "parity", "conventions", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conventions")


@pytest.fixture(scope="module")
def ran(folder: Path) -> subprocess.CompletedProcess[str]:
    """The command, once, with everything that is installed."""
    return command("--json", "all.json", "--figure", "figure.png", folder=folder)


@pytest.fixture(scope="module")
def written(ran: subprocess.CompletedProcess[str], folder: Path) -> dict[str, Any]:
    """The JSON of that."""
    found: dict[str, Any] = json.loads((folder / "all.json").read_text())
    return found


def at(
    written: dict[str, Any],
    x: float,
    label: int,
    framework: str,
    line: str,
    variant: str = "",
    mode: str = "eager",
) -> Found:
    """Loss and gradient of one row at a raw output."""
    key = (framework, line, variant, mode)
    (row,) = [
        row
        for row in written["rows"]
        if (row["framework"], row["line"], row["variant"], row["mode"]) == key
    ]
    values, index = row["labels"][str(label)], written["raw_outputs"].index(x)
    return values["loss"][index], values["gradient"][index]


def near(loss: float, gradient: float) -> Any:
    return pytest.approx((loss, gradient), rel=1e-5, abs=1e-12)


@TENSORFLOW
@pytest.mark.parametrize("mode", ["eager", "tf.function"])
def test_keras_on_tensorflow_finds_the_logits_unless_hidden(written: Any, mode: str) -> None:
    keras = partial(at, written, framework="keras-tensorflow", mode=mode)
    for line in ("sigmoid", "raw"):
        assert keras(200, 0, line=line) == near(200, 1)
        assert keras(-200, 1, line=line) == near(200, -1)
    assert keras(200, 0, line="hidden") == near(23 * math.log(2), 0)  # 15.9424
    assert keras(-200, 1, line="hidden") == near(-math.log(1e-7), 0)  # 16.1181
    assert keras(-200, 0, line="hidden") == near(2**-23, 0)


@JAX
@pytest.mark.parametrize("mode", ["eager", "jax.jit"])
@pytest.mark.parametrize("line", ["sigmoid", "hidden"])
def test_keras_on_jax_clips(written: Any, mode: str, line: str) -> None:
    keras = partial(at, written, framework="keras-jax", mode=mode, line=line)
    assert keras(200, 0) == near(15.942385, 0)
    assert keras(-200, 1) == near(16.118095, 0)
    assert keras(16, 0) == near(15.942385, 0.5)  # half of the gradient, exactly on the limit


@KERAS_TORCH
def test_keras_on_torch_clips_and_takes_log1p(written: Any) -> None:
    keras = partial(at, written, framework="keras-torch")
    for line in ("sigmoid", "hidden"):
        assert keras(200, 0, line=line) == near(15.942385, 0)
        assert keras(-200, 0, line=line) == near(1e-7, 0)
        assert keras(200, 1, line=line) == near(2**-23, 0)


@KERAS_2
def test_keras_2_adds_epsilon_and_finds_the_logits_in_a_graph(written: Any) -> None:
    keras = partial(at, written, framework="tf-keras")
    for line, variant in (("sigmoid", "tf.sigmoid"), ("hidden", "")):
        assert keras(200, 0, line=line, variant=variant) == near(15.333239, 0)
        assert keras(-200, 1, line=line, variant=variant) == near(15.424949, 0)
    assert keras(200, 0, line="sigmoid", variant="tf.sigmoid", mode="tf.function") == near(200, 1)
    assert keras(200, 0, line="sigmoid") == near(200, 1)  # tf_keras.activations.sigmoid
    loss, gradient = keras(200, 0, line="hidden", mode="tf.function")
    assert gradient == 0
    # the graph optimizer turns 1 - p + epsilon into (1 + epsilon) - p, at its leisure
    assert loss in (near(15.333239, 0).expected[0], pytest.approx(22 * math.log(2), rel=1e-5))


@TORCH
def test_torch_clamps_at_100(written: Any) -> None:
    torch = partial(at, written, framework="torch")
    assert torch(17, 0, line="sigmoid") == near(100, 0)
    assert torch(-200, 1, line="sigmoid") == near(100, 0)
    loss, gradient = torch(-50, 1, line="sigmoid")
    assert loss == pytest.approx(50)
    assert -1e-9 < gradient < 0  # the loss is right and hardly anything is learned from it
    assert torch(200, 0, line="raw") == near(200, 1)
    assert torch(-17, 0, line="raw")[0] == 0  # 4.1e-8 to be exact


OURS = [
    pytest.param("torch", "eager", marks=TORCH),
    pytest.param("keras-tensorflow", "eager", marks=TENSORFLOW),
    pytest.param("keras-tensorflow", "tf.function", marks=TENSORFLOW),
    pytest.param("keras-jax", "jax.jit", marks=JAX),
    pytest.param("keras-torch", "eager", marks=KERAS_TORCH),
]


@pytest.mark.parametrize(("framework", "mode"), OURS)
def test_the_conventions_are_what_they_say(written: Any, framework: str, mode: str) -> None:
    expected = {
        "exact": ((200, 1), (200, -1), (0, 0)),
        "keras": ((15.942385, 0), (16.118095, 0), (2**-23, 0)),
        "keras2": ((15.333239, 0), (15.424949, 0), (0, 0)),
        "keras_logit": ((15.942385, 0), (16.118095, 0), (1e-7, 0)),
        "torch": ((100, 0), (100, 0), (0, 0)),
        "torch_legacy": ((27.631021, 0), (27.631021, 0), (0, 0)),
    }
    for name, found in expected.items():
        for (x, label), wanted in zip(((200, 0), (-200, 1), (-200, 0)), found, strict=True):
            got = at(written, x, label, framework, "segact", name, mode)
            assert got == near(*wanted), (name, x, label)


@pytest.mark.parametrize("framework", [pytest.param("torch", marks=TORCH)])
def test_where_the_loss_sticks(written: Any, framework: str) -> None:
    rows = {
        row["variant"]: row["labels"]
        for row in written["rows"]
        if (row["framework"], row["line"]) == (framework, "segact")
    }
    keras, exact = rows["keras"]["0"], rows["exact"]["0"]
    assert (keras["largest"], keras["smallest"]) == near(15.942385, 2**-23)
    assert 15.5 < keras["largest_from"] < 16
    assert 16.2 < keras["largest_gradient_0_from"] < 16.7
    assert -16.2 < keras["smallest_from"] < -15.6
    assert rows["keras"]["1"]["largest_from"] == pytest.approx(-16.12)
    assert rows["torch"]["0"]["largest"] == 100
    for key in ("largest", "largest_from", "largest_gradient_0_from", "smallest"):
        assert exact[key] is None


def test_json_holds_everything(written: Any) -> None:
    raw = list(conventions.RAW)
    assert written["raw_outputs"] == raw
    assert written["failed"] == {}
    assert "numpy" in written["versions"]
    frameworks = {row["framework"] for row in written["rows"]}
    assert frameworks | set(written["skipped"]) == set(MODULES)
    for name in frameworks:
        assert all(find_spec(module) for module in MODULES[name])
    for row in written["rows"]:
        assert row["error"] == ""
        assert set(row["labels"]) == {"0", "1"}
        for values in row["labels"].values():
            for key in ("loss", "gradient", "loss_off", "gradient_off"):
                assert len(values[key]) == len(raw)
            assert "curve" not in values
    index = raw.index(-20)
    assert written["exact"]["0"]["loss"][index] == pytest.approx(math.log1p(math.exp(-20)))
    assert written["exact"]["1"]["gradient"][index] == pytest.approx(-1 / (1 + math.exp(-20)))


@TORCH
def test_what_is_off_is_marked(written: Any) -> None:
    (row,) = [r for r in written["rows"] if (r["framework"], r["line"]) == ("torch", "sigmoid")]
    marks = dict(zip(written["raw_outputs"], row["labels"]["0"]["loss_off"], strict=True))
    assert [x for x, off in marks.items() if off] == [16, 17, 20, 50, 200]  # at 100 it is right


def test_the_tables_fit(ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    for title in ("label 0", "label 1", "where the loss sticks"):
        assert any(line.startswith(title) for line in lines)
    for name in stock.CONVENTIONS:
        assert sum(line.split()[:1] == [name] for line in lines) >= 2, name
    (first, *_) = [line for line in lines if line.split()[:1] == ["keras"]]
    assert first.split()[1:3] == ["1.2e-7/0!", "1.2e-7/0!"]


@TORCH
def test_the_figure_is_written(ran: subprocess.CompletedProcess[str], folder: Path) -> None:
    content = (folder / "figure.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert 20_000 < len(content) < 120_000


@pytest.fixture
def only_torch(tmp_path: Path) -> Path:
    """Hides every other framework."""
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import importlib.util as u\nreal = u.find_spec\n"
        "hidden = ('keras', 'tensorflow', 'tf_keras', 'jax')\n"
        "u.find_spec = lambda name, *a: None if name in hidden else real(name, *a)\n"
    )
    return hide


@TORCH
def test_markdown_and_frameworks_that_are_missing(tmp_path: Path, only_torch: Path) -> None:
    result = command("--markdown", "--json", "all.json", folder=tmp_path, ahead=only_torch)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "| label 0: loss / gradient | x = -200 | x = 17 | x = 200 |"
    assert lines[2] == "| exact | 0 / 0 | 17 / 1 | 200 / 1 |"
    assert "| sigmoid, loss: torch | 0 / 0 | **100 / 0** | **100 / 0** |" in lines
    legacy = '| segact, `convention="torch_legacy"` | 0 / 0 | **27.631 / 0** | **27.631 / 0** |'
    assert lines[-1] == legacy
    skipped = json.loads((tmp_path / "all.json").read_text())["skipped"]
    assert skipped["keras-jax"] == "keras and jax are not installed"
    assert skipped["tf-keras"] == "tensorflow and tf_keras are not installed"


@TORCH
def test_other_raw_outputs(tmp_path: Path, only_torch: Path) -> None:
    result = command("--raw=-3,40,40,0.1", "--json", "-", folder=tmp_path, ahead=only_torch)
    assert result.returncode == 0, result.stderr
    written = json.loads(result.stdout)
    assert written["raw_outputs"] == [-3, 40, float(np.float32(0.1))]
    assert at(written, 40, 0, "torch", "raw") == near(40, 1)
    (heads, *_) = [line for line in result.stderr.splitlines() if line.startswith(" ")]
    assert heads.split() == ["x", "=", "-3", "40", "0.1"]
    assert "tf-keras: skipped: tensorflow and tf_keras are not installed" in result.stderr


@TORCH
def test_what_fails_leaves_the_rest(tmp_path: Path, only_torch: Path) -> None:
    package = only_torch / "segact_torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the roof is on fire')\n")
    result = command(folder=tmp_path, ahead=only_torch)
    assert result.returncode == 1
    assert result.stdout.count("failed: ") == 1
    assert "and 5 more: RuntimeError: the roof is on fire" in result.stdout
    assert "100/0!" in result.stdout  # stock torch
    (package / "__init__.py").write_text("import os\nos._exit(3)\n")  # the whole process
    result = command("--json", "all.json", folder=tmp_path, ahead=only_torch)
    assert result.returncode == 1
    assert "failed: torch: exit code 3" in result.stdout
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert [row["line"] for row in rows] == ["sigmoid", "raw"]


def test_nothing_installed(tmp_path: Path, only_torch: Path) -> None:
    file = only_torch / "sitecustomize.py"
    file.write_text(file.read_text().replace("'jax'", "'jax', 'torch'"))
    result = command(folder=tmp_path, ahead=only_torch)
    assert result.returncode == 1
    assert "torch: skipped: torch is not installed" in result.stdout
    assert "no framework is installed" in result.stdout


def test_bad_options_are_refused_before_the_work(
    segact_parity: Run, tmp_path: Path, only_torch: Path
) -> None:
    def refused(*arguments: str) -> str:
        result = segact_parity("conventions", *arguments, ahead=only_torch)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        return result.stderr

    for raw in ("a", "1,,2", "nan", "1e39"):
        assert f"--raw is '{raw}'" in refused(f"--raw={raw}")
    assert "nowhere/a.json: cannot write" in refused("--json", "nowhere/a.json")
    assert "nowhere/a.png: cannot write" in refused("--figure", "nowhere/a.png")
    assert "a.pdf: a figure is written as .png or .svg" in refused("--figure", "a.pdf")
    assert "--markdown and --json -" in refused("--markdown", "--json", "-")


@pytest.mark.needs("torch", "keras")
def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C: one plain line and code 130."""
    # a shell starts its background jobs deaf to Ctrl-C, and a test inherits that
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "parity", "conventions"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=heed,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    first = process.stderr.readline()  # one is done, others are not
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert ": done, " in first
    assert (process.returncode, out) == (130, "")
    assert error.split("\n")[-2] == "segact-parity: interrupted"
    assert "Traceback" not in error


def test_saturation_of_a_clipped_ramp() -> None:
    x = np.linspace(-4, 4, 801).astype(np.float32)
    loss = np.clip(x, -2, 3)
    gradient = ((x > -2) & (x < 3)).astype(np.float32)
    found = stock.saturation(loss, gradient, x)
    assert found == pytest.approx(
        {
            "largest": 3,
            "largest_from": 3,
            "largest_gradient_0_from": 3,
            "smallest": -2,
            "smallest_from": -2,
            "smallest_gradient_0_from": -2,
        }
    )
    mirrored = stock.saturation(loss, gradient, -x)
    assert (mirrored["largest_from"], mirrored["smallest_from"]) == (-3, 2)
    assert set(stock.saturation(x, np.ones_like(x), x).values()) == {None}


def test_exact_far_out() -> None:
    assert conventions.exact(200, 0) == (200, 1)
    assert conventions.exact(-200, 1) == (200, -1)
    assert conventions.exact(-200, 0) == pytest.approx((math.exp(-200), math.exp(-200)))


def test_numbers_are_short() -> None:
    assert [number(x) for x in (15.942385, 200.0, 1.19e-7, 0.0, -1e-40, 1e30)] == [
        "15.942",
        "200",
        "1.2e-7",
        "0",
        "0",
        "1e30",
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_wrap_and_are_not_cut(width: int) -> None:
    """The longest names, beside as many columns as fit."""
    labels = {}
    for label in (0, 1):
        loss, gradient = zip(*(conventions.exact(x, label) for x in conventions.RAW), strict=True)
        limits = {"largest": 15.942, "largest_from": 15.5, "largest_gradient_0_from": -88.7}
        limits |= {"smallest": 1.192e-7, "smallest_from": -15.7}
        labels[str(label)] = {"loss": [*loss], "gradient": [*gradient], **limits}
    names = {"keras-tensorflow", "tf-keras", "keras-torch", "segact_tf on tensorflow"}
    rows = [
        conventions.Row(name, line, "tf.sigmoid", "tf.function", "", "", labels)
        for name in sorted(names)
        for line in ("sigmoid", "hidden", "raw")
    ]
    written = io.StringIO()
    out = Console(width=width, file=written)
    convention_tables.print_results(out, conventions.Results([*conventions.RAW], rows))
    text = written.getvalue()
    assert "…" not in text
    table = text[text.index("x = ") : text.index("label 1")].splitlines()
    assert max(len(line.rstrip()) for line in table if "/" in line) <= width
    assert all(word in text for name in names for word in name.split())
