"""That the benchmarks are complete, fair and run, and what they write; never how fast."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("typer")
pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are not installed

import segact_torch  # noqa: E402
from benchmarks import causes, measure, profiles, report, torch_cases, worker  # noqa: E402
from benchmarks.cases import HUGE, LARGE, MIDDLE, SMALL, SWEEP, USUAL  # noqa: E402
from parity.suite.case import ACTIVATIONS  # noqa: E402

EAGER = torch_cases.eager()


def public_losses():
    """The functions of the package that a class is over."""
    classes = [c for c in vars(segact_torch).values() if isinstance(c, type)]
    functions = {c.function.__name__ for c in classes if hasattr(c, "function")}
    assert functions <= set(segact_torch.__all__)
    return functions


# --- the rows


@pytest.mark.needs("monai")
@pytest.mark.parametrize("cases", [EAGER, torch_cases.to_compile()], ids=["eager", "compiled"])
def test_every_loss_has_a_row_and_a_counterpart(cases):
    assert {case.loss for case in cases if case.theirs} == public_losses()


@pytest.mark.parametrize("loss", sorted(public_losses() - {"lovasz_hinge"}))
def test_every_activation_has_a_row(loss):
    assert {c.options for c in EAGER if c.loss == loss} >= set(ACTIVATIONS)


@pytest.mark.parametrize("make", [torch_cases.eager, torch_cases.to_compile, torch_cases.bandwidth])
def test_no_two_rows_are_one(make):
    keys = [case.key for case in make()]
    assert sorted(keys) == sorted(set(keys))


def batch():
    generator = torch.Generator().manual_seed(7)
    x = 2 * torch.randn(8, 1, 40, generator=generator)
    return x.requires_grad_(), (torch.rand(x.shape, generator=generator) < 1 / 3).float()


PAIRS = [case for case in EAGER if case.theirs]


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: case.key)
def test_ours_and_theirs_are_the_same(case):
    """Value and gradient, where they say so; else the counterpart is the sigmoid's."""
    x, y = case.inputs(*batch())
    results = []
    for loss in (case.ours, case.theirs):
        value = loss(x, y)
        (slope,) = torch.autograd.grad(value, x)
        results.append((value.detach().double(), slope.double()))
    (value, slope), (expected, other) = results
    rel = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(x.dtype, 2e-6)
    if "ignore_index" in case.options:
        rel = max(rel, 1e-5)  # MONAI's smooth of 1e-5 on sums of 10
    same = value.item() == pytest.approx(expected.item(), rel=5 * rel)
    assert same is case.same
    if same and rel < 1e-3:  # theirs rounds each of its steps in half precision
        assert (slope - other).abs().max() <= 20 * rel * other.abs().max()


@pytest.mark.parametrize(
    "case", [case for case in PAIRS if "weight" in case.options], ids=lambda case: case.key
)
def test_weights_are_on_the_device_of_the_inputs(case):
    x, y = (tensor.detach().to("meta") for tensor in case.inputs(*batch()))
    assert case.ours(x, y).is_meta
    assert case.theirs(x, y).is_meta


def test_only_other_activations_may_differ():
    named = [case for case in EAGER if not case.same]
    assert {case.options for case in named} & {"", "sigmoid", *torch_cases.INPUTS} == set()
    assert {c.loss for c in named} == set(torch_cases.ONLY_SIGMOID)


def test_the_copies_move_what_they_say():
    for case in torch_cases.bandwidth():
        x, y = batch()
        with worker_counter(x.numel()) as counter:
            case.theirs(x, y)
        assert f"copy of {counter.moved:g} tensors" == case.counterpart


def worker_counter(elements):
    from benchmarks import counts

    class Everything(counts.Counter):
        """Counts pieces, too."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if not func.is_view and "clone" in func.name():
                self.moved += 2 * out.numel() / self.elements
            return out

    return Everything(elements)


def test_sizes_of_a_case():
    swept, usual = EAGER[0], EAGER[3]
    assert swept.sizes == SWEEP
    task = worker.Task("torch")
    assert task.sizes_of(usual) == [SMALL, MIDDLE, LARGE]
    assert replace(task, huge=True).sizes_of(swept) == [*SWEEP, HUGE]
    assert replace(task, huge=True).sizes_of(usual) == [SMALL, MIDDLE, LARGE]
    assert replace(task, sizes=(8,)).sizes_of(swept) == [8]
    done = replace(task, done=((usual.key, SMALL),))
    assert done.sizes_of(usual) == [MIDDLE, LARGE]
    again = replace(task, keys=[(usual.key, LARGE)])
    assert again.sizes_of(usual) == [LARGE]
    assert not again.asks_for(swept)
    assert not replace(task, only=("no such",)).asks_for(usual)


# --- how it is measured


def test_turns_go_back_and_forth(monkeypatch):
    """Every round has both, and the ratio is of the round."""
    order, clock = [], iter(range(10**6))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock) * 1e-3)
    found = measure.beside(lambda: order.append("a"), lambda: order.append("b"), 6, 1e9)
    assert len(found.ours) == len(found.theirs) == 6
    assert found.ratio == (1, 1, 1)
    turns = [a for a, b in zip(order, [*order[1:], ""], strict=True) if a != b]
    assert turns[-12:] == ["a", "b"] * 6
    assert measure.Times([1, 2, 3], [1, 1, 1]).ratio == (1.5, 2, 2.5)


def test_a_budget_ends_the_rounds():
    found = measure.beside(lambda: None, lambda: None, 10**6, 0.0)
    assert len(found.ours) == measure.FEWEST


@pytest.mark.parametrize(
    ("loss", "options", "served"),
    [("dice", {}, "cpu"), ("lovasz", {}, "formula"), ("dice_cross_entropy", {}, "cpu")],
)
def test_who_serves_a_loss(loss, options, served):
    if segact_torch.backends()["cpu"] != "yes":
        pytest.skip("no compiled loops")
    x, y = batch()
    step = worker.Torch(worker.Task("torch", threads=1)).step(getattr(segact_torch, loss), x, y)
    assert measure.backends(step) == served
    from benchmarks import counts

    if loss != "lovasz":
        with counts.bare():
            assert measure.backends(step) == "compact"


# --- the profiles


def test_shares_of_a_profile():
    times = {"add": 20.0, "mul": 70.0, "exp": 4.0, "log": 3.0, "abs": 2.8, "neg": 0.2}
    assert profiles.words(times) == "mul 70 %, add 20 %, exp 4 %, log 3 %"
    assert profiles.words({"mul": 999.0, "neg": 1.0}) == "mul 100 %"
    assert profiles.words({}) == ""


def test_a_profile_of_pytorch_names_operations_and_loops():
    from benchmarks import counts

    engine = worker.Torch(worker.Task("torch", threads=torch.get_num_threads()))
    case = next(c for c in EAGER if c.key == "dice, sigmoid / MONAI DiceLoss")
    x, y = engine.batch(case, MIDDLE)
    assert "compiled loops" in engine.profile(case.ours, x, y)
    with counts.bare():
        plain = engine.profile(case.ours, x, y)
    assert "compiled loops" not in plain
    assert "sigmoid" in engine.profile(lambda x, y: torch.sigmoid(x).sum(), x, y)


def test_only_slower_rows_have_a_profile(monkeypatch):
    engine = worker.Torch(worker.Task("torch", threads=torch.get_num_threads()))
    case = next(c for c in EAGER if c.theirs)
    for ratio, size, profiled in ((2.0, MIDDLE, True), (0.5, MIDDLE, False), (2.0, SMALL, False)):
        found = measure.Times([ratio] * 3, [1.0] * 3)
        monkeypatch.setattr(measure, "beside", lambda *_, found=found: found)
        row = worker._row(engine, engine.task, case, size, {})
        assert (row.profile is not None) is profiled
        sheets = [sheet.title for sheet in report.sheets(report.Results({}, [row]))]
        assert ("Where the time of these goes" in sheets) is profiled


PROFILES = {
    "by kind of operation": (profiles.operations, {"Mul": 3.0}, [
        ("tf_Compute/1", "mul_3:Mul", 2.0),
        ("tf_Compute/2", "gradient/mul:Mul", 1.0),
        ("tf_Compute/1", "ExecutorState::Process", 9.0),
        ("python", "__inference_f_1:__inference_f_1", 9.0),
        ("python", "EagerLocalExecute: f", 9.0),
    ]),
    "by loop": (profiles.loops, {"select_add_fusion": 3.0}, [
        ("tf_XLAEigen/1", "select_add_fusion", 2.0),
        ("tf_XLAEigen/2", "select_add_fusion", 1.0),
        ("tf_XLAPjRtCpuClient/1", "ThunkExecutor::Execute", 9.0),
        ("tf_XLAPjRtCpuClient/1", "end: select_add_fusion", 9.0),
        ("python", "$profiler.py:151 start_trace", 9.0),
    ]),
}  # fmt: skip


@pytest.mark.parametrize(("grouped", "times", "events"), PROFILES.values(), ids=PROFILES)
def test_a_profile_leaves_out_the_runtime(grouped, times, events):
    assert grouped(events) == times


def test_a_program_of_xla_is_counted():
    text = """
  %p.1 = f32[8,4]{1,0} parameter(0)
  %add.2 = f32[8,4]{1,0} add(%p.1, %p.1)
  ROOT %mul.3 = f32[8,4]{1,0} multiply(%add.2, %add.2)
  %add.4 = f32[] add(%c, %d)
  %loop = (f32[8,4]{1,0}, f32[]) fusion(%x), kind=kLoop
  %other = f32[8,4]{1,0} fusion(%x), kind=kLoop
"""
    assert profiles.of_program(text) == "2 loops of 3 operations: 2 add, 1 multiply"


def test_kernels_of_a_profile():
    cuda = torch.autograd.DeviceType.CUDA
    names = [("losses", 3.0), ("losses", 2.0), ("Memset (Device)", 9.0)]
    events = [
        SimpleNamespace(
            name=name,
            device_type=cuda,
            is_user_annotation=False,
            time_range=SimpleNamespace(elapsed_us=lambda took=took: took),
        )
        for name, took in names
    ]
    assert profiles.kernels(events) == {"losses": 5.0}


# --- the report


def row(name="dice", ratio=1.0, **fields):
    quartiles = ratio if isinstance(ratio, tuple) else (0.9 * ratio, ratio, 1.1 * ratio)
    default = {"framework": "torch", "options": "", "counterpart": "theirs", "same": True}
    default |= {"elements": LARGE, "served": "cpu", "milliseconds": (quartiles[1], 1.0)}
    return report.Row(loss=name, ratio=quartiles, **default | fields)


def test_the_slowest_comes_first():
    rows = [row("a", 0.5), row("b", 3.0), row("c", 1.2), row("d", 9.0, elements=SMALL)]
    rows += [row("c", 7.0, elements=MIDDLE), row("e", 2.0, framework="jax")]
    summary, slower, torch_sheet, jax, *_ = report.sheets(report.Results({}, rows))
    assert summary.lines == [["PyTorch", "4", "3", "2.10 (1.02-4.00)", "7.00, c"]]
    assert [(line[0], line[2]) for line in slower.lines] == [
        ("PyTorch: c", "1e5"),
        ("PyTorch: b", "2e6"),
        ("Keras, JAX: e", "2e6"),
        ("PyTorch: c", "2e6"),
    ]
    assert [line[0] for line in torch_sheet.lines] == ["d", "c", "b", "a"]
    assert torch_sheet.heads[:5] == ["", "counterpart", "64", "1e5", "2e6"]
    assert [line[0] for line in jax.lines] == ["e"]
    assert all(line[3][-1] in causes.CAUSES | {"?": ""} for line in slower.lines)


def test_every_size_of_a_short_run_is_shown():
    """Also those that a full run has for few losses alone, for the lines are sorted by them."""
    sizes = (SMALL, 1_000)
    rows = [row(name, 1.0 + i, elements=n) for i, name in enumerate("ab") for n in sizes]
    (sheet,) = report.sheets(report.Results({}, rows))
    assert sheet.heads[:5] == ["", "counterpart", "64", "1e3", "ms"]
    assert all(sheet.lines[0])
    swept = [row("c", elements=n) for n in SWEEP]
    usual = [row("a", elements=n) for n in USUAL]
    _, torch_sheet, sweep = report.sheets(report.Results({}, [*usual, *swept]))
    assert torch_sheet.heads[:5] == ["", "counterpart", "64", "1e5", "2e6"]
    assert len(sweep.heads) == 1 + len(SWEEP)


def test_what_an_import_adds_is_never_negative(monkeypatch):
    """The two are times of one process: what another takes longer is not taken from ours."""
    said = iter(["5.0 5.2", "1.0 1.1", "9.0 9.3"])
    done = SimpleNamespace(stdout="")

    def process(*arguments, **options):
        done.stdout = "\n".join(next(said).split())
        return done

    monkeypatch.setattr(measure.subprocess, "run", process)
    assert measure.import_seconds(3) == {"torch": 5.0, "segact_torch": 5.2}
    monkeypatch.undo()
    found = measure.import_seconds(1)
    assert 0 < found["torch"] < found["segact_torch"]


def test_what_exceeds_what_is_recorded():
    recorded = [row("a", (0.9, 1.0, 1.1)), row("b", (4.0, 5.0, 6.0)), row("gone", 1.0)]
    now = [row("a", (1.3, 1.4, 1.5)), row("b", (6.5, 7.0, 7.5)), row("new", 9.0)]
    found = report.exceeding(now, recorded)
    assert [(new.loss, old.loss) for new, old in found] == [("a", "a")]
    assert report.comparison(*found[0]).startswith("torch: a / theirs, 2e6 elements: 1.40 (1.30-")
    assert "recorded 1.00 (0.90-1.10)" in report.comparison(*found[0])
    other = [row("a", (1.3, 1.4, 1.5), elements=MIDDLE)]
    assert report.exceeding(other, recorded) == []  # of another size nothing is recorded


def test_a_row_measured_again_replaces_the_first():
    results = report.Results({}, [row("a", 2.0), row("b", 1.0)])
    results.add(row("a", 1.0))
    assert [(r.loss, r.ratio[1]) for r in results.rows] == [("b", 1.0), ("a", 1.0)]


def test_json_comes_back():
    results = report.Results({"device": "d"}, [row(memory=(0.0, 2.0))], {"a": "why"}, ["b"], {})
    assert report.Results.from_dict(json.loads(json.dumps(results.as_dict()))) == results


def test_markdown_between_the_markers():
    results = report.Results({"device": "d"}, [row("a|b", 2.0)], {"a: b": "x is not installed"})
    page = f"before\n{report.START}\nold\n{report.END}\nafter"
    text = report.into_page(page, results)
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert "old" not in text
    assert "Not measured, as x is not installed: a: b." in text
    assert report.into_page(text, results) == text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert "a/b" in text
    with pytest.raises(ValueError, match="no lines"):
        report.into_page("no markers", results)


def test_no_cause_is_left_out():
    """Of the committed run: a row that is slower has its cause in words."""
    recorded = report.Results.from_dict(json.loads((ROOT / "docs/performance.json").read_text()))
    unknown = [report.ratio_of(r) + r.name for r in recorded.slower if causes.letter(r) == "?"]
    assert unknown == []
    assert recorded.failed == []


def test_the_page_is_that_of_the_recorded_run():
    recorded = report.Results.from_dict(json.loads((ROOT / "docs/performance.json").read_text()))
    text = (ROOT / "docs/results/performance.md").read_text()
    assert report.into_page(text, recorded) == text
    assert (
        "\n".join(report.table(report.summary(recorded)))
        in (ROOT / "docs/performance.md").read_text()
    )


CAUSES = {
    "a": {"ratio": (0.9, 1.1, 1.2)},
    "b": {"elements": MIDDLE},
    "c": {"name": "lovasz"},
    "d": {"options": "linear"},
    "e": {"served": "cpu", "options": "float16"},
    "f": {"framework": "compile"},
    "g": {"framework": "keras-torch", "operations": (9, 5)},
    "h": {"framework": "xla"},
    "?": {"framework": "torch"},
}


@pytest.mark.parametrize(("letter", "fields"), CAUSES.items())
def test_the_causes(letter, fields):
    of = row(**{"ratio": (2.9, 3.0, 3.1)} | fields)
    assert causes.letter(of) == letter
    assert report.ratio_of(of).endswith(f") {letter}")


# --- the command


def run(*options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_quick(tmp_path):
    """Two losses in two frameworks; then on from there, and against what was recorded."""
    path, figure = tmp_path / "results.json", tmp_path / "results.png"
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n{report.START}\n{report.END}\n")
    words = ["--quick", "--threads", "1", "--framework", "torch", "--json", str(path)]
    first = run(*words, "--only", "jaccard, sigmoid", "--markdown", "--page", str(page))
    assert first.returncode == 0, first.stderr
    found = report.Results.from_dict(json.loads(path.read_text()))
    assert {r.name for r in found.rows} == {"jaccard, sigmoid"}
    for r in found.rows:
        assert r.ratio[0] > 0
        assert r.operations[0] > r.operations[1] > 0
    assert found.machine["compiled loops"] == segact_torch.backends()["cpu"]
    assert "| jaccard, sigmoid | MONAI DiceLoss(jaccard=True) |" in first.stdout
    assert "| jaccard, sigmoid |" in page.read_text()
    keras = ("--framework", "keras-torch", "--only", "jaccard, ", "--resume")
    more = run(*words, *keras, "--figure", str(figure), "--against", str(path))
    assert figure.read_bytes().startswith(b"\x89PNG"), more.stderr
    later = report.Results.from_dict(json.loads(path.read_text()))
    assert set(found.rows) < set(later.rows)  # what was there is not measured again
    assert {r.framework for r in later.rows} == {"torch", "keras-torch"}
    assert "exceed what is recorded" in more.stderr
    assert "Keras, torch" in more.stdout


def test_a_larger_ratio_than_recorded_fails(capsys):
    from benchmarks.__main__ import _verdict

    now = report.Results({}, [row("a", 5.0), row("b", 1.0)])
    old = report.Results({}, [row("a", 1.0), row("b", 1.0)])
    assert _verdict(now, None) == _verdict(old, now) == 0
    assert _verdict(now, old) == 1
    assert _verdict(replace(now, failed=["c: it did not run"]), None) == 1
    said = capsys.readouterr().err
    assert "benchmarks: torch: a / theirs, 2e6 elements: 5.00 (4.50-5.50)" in said
    assert "benchmarks: 1 of 2 rows exceed what is recorded" in said
    assert "benchmarks: failed: c: it did not run" in said


def test_another_machine_is_not_gone_on_with(tmp_path, capsys):
    from benchmarks.__main__ import _results, typer

    path = tmp_path / "results.json"
    path.write_text(json.dumps(report.Results({"device": "another", "threads": "2"}).as_dict()))
    with pytest.raises(typer.Exit):
        _results("cpu", 2, path)
    assert capsys.readouterr().err.startswith("benchmarks: --resume: device was another, and is ")


WRONG = {
    "unknown framework torhc; did you mean torch?": ["--framework", "torhc"],
    "unknown device tpu; did you mean cpu?": ["--device", "tpu"],
    "--framework jax is measured on a CPU alone": ["--framework", "jax", "--device", "cuda"],
    "--sizes wants multiples of 8 from 8 on, such as 64,1e5, got 12": ["--sizes", "12"],
    "--sizes wants multiples of 8 from 8 on, such as 64,1e5, got many": ["--sizes", "many"],
    "--figure wants a .png or .svg, got a.doc": ["--figure", "a.doc"],
    "--resume wants --json, whose rows it keeps": ["--resume"],
    "--json nowhere/a.json: cannot write there; wanted": ["--json", "nowhere/a.json"],
    "--json .: cannot write there; wanted a file": ["--json", "."],
    "--figure nowhere/a.png: cannot write there; wanted": ["--figure", "nowhere/a.png"],
    "--against nowhere.json: No such file or directory": ["--against", "nowhere.json"],
    "--against README.md is no JSON file that": ["--against", "README.md"],
    "--page nowhere.md: No such file or directory": ["--page", "nowhere.md"],
    "--page README.md has no lines": ["--page", "README.md"],
}


@pytest.mark.parametrize(("words", "options"), WRONG.items())
def test_wrong_usage(words, options, monkeypatch):
    """One line, before anything is measured."""
    from typer.testing import CliRunner

    from benchmarks.__main__ import main, typer

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("benchmarks.__main__._measure_all", None)
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"benchmarks: {words}")
    assert done.stderr.count("\n") == 1


def test_words_that_no_row_has():
    done = run("--quick", "--framework", "torch", "--only", "no such loss")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "benchmarks: no row has no such loss in its name"
