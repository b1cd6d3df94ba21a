"""`make gpu` where there is no GPU: steps that end in every way, and the short run itself."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("typer")
pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the scripts are not installed

from benchmarks import measure, report  # noqa: E402
from scripts.gpu import curves, page, plan, steps  # noqa: E402


def step(name, code, **options):
    return steps.Step(name, name, (steps.Command((sys.executable, "-c", code)),), **options)


def refuse(folder):
    raise steps.Skip("there is no such device")


@pytest.fixture
def runner(tmp_path):
    return steps.Runner(tmp_path, {"GIVEN": "yes"}, budget=60)


def test_no_step_ends_another(runner, tmp_path):
    told = []
    child = f"import time; time.sleep(2); open({str(tmp_path / 'alive')!r}, 'w')"
    slow = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    asked = [
        step("good", "import os; print(os.environ['GIVEN'])", read=lambda folder: {"seen": 1}),
        step("bad", "print('first'); raise SystemExit('no such thing')"),
        step("slow", slow, limit=0.5),
        step("absent", "", needs=("a_module_that_nobody_has",)),
        step("refused", "raise SystemExit(1)", read=refuse),
        step("unread", "", read=lambda folder: json.loads("no JSON")),
        step("left out", "", skipped="for a reason"),
        step("alone", "", alone=True),
    ]
    found = runner.run_all(asked, 3, lambda result: told.append(result.step.name))
    assert [result.step for result in found] == asked
    assert sorted(told) == sorted(one.name for one in asked)
    assert told[0] == "alone"
    by_name = {result.step.name: result for result in found}
    assert {name: result.status for name, result in by_name.items()} == {
        "good": "done",
        "bad": "failed",
        "slow": "failed",
        "absent": "skipped",
        "refused": "skipped",
        "unread": "failed",
        "left out": "skipped",
        "alone": "done",
    }
    assert by_name["good"].figures == {"seen": 1}
    assert by_name["bad"].reason == "exit code 1: no such thing"
    assert by_name["bad"].last_words == ["first", "no such thing"]
    assert by_name["slow"].reason == "not done after 0 s: stopped"
    assert "a_module_that_nobody_has" in by_name["absent"].reason
    assert by_name["refused"].reason == "there is no such device"
    assert "JSONDecodeError" in by_name["unread"].reason
    time.sleep(2.5)
    assert not (tmp_path / "alive").exists()  # what a step started ends with it


def test_the_budget_ends_what_runs_and_starts_nothing_more(tmp_path):
    runner = steps.Runner(tmp_path, {}, budget=0.5)
    asked = [step("long", "import time; time.sleep(30)"), step("late", "")]
    long, late = runner.run_all(asked, 1, lambda result: None)
    assert (long.status, late.status) == ("failed", "skipped")
    assert long.seconds < 10
    assert late.reason == "no time was left"


def test_on_a_gpu_every_training_has_its_twin_on_the_cpu(tmp_path):
    (tmp_path / "dsb2018_96").mkdir()
    every = {s.name: s for s in plan.Plan(data=tmp_path).steps(tmp_path)}
    assert {
        *("machine", "benchmarks", "judge-torch", "judge-torch-formulas"),
        *("judge-keras-jax", "judge-keras-torch", "judge-keras-tensorflow"),
        *("cats_vs_dogs-torch", "segmentation-keras-jax", "segmentation-keras-torch"),
    } <= every.keys()
    on_device, on_cpu = every["segmentation-torch"].commands
    assert on_device.words[-4:-2] == ("--device", "cuda")
    assert on_cpu.words[-4:-2] == ("--device", "cpu")
    assert on_device.words[:-4] == on_cpu.words[:-4]
    assert f"dsb2018:{tmp_path}/dsb2018_96" in on_device.words
    assert "--data" not in every["cats_vs_dogs-torch"].commands[0].words  # none there: synthetic
    (formulas,) = every["judge-torch-formulas"].commands
    assert formulas.environment == {"SEGACT_KERNELS": "0"}


def test_a_short_run_has_more_time(tmp_path):
    """Its machine may be slow, and is not what is measured."""
    full, short = (plan.Plan("cpu", short).steps(tmp_path) for short in (False, True))
    limits = {s.name: s.limit for s in full}
    assert all(s.skipped or s.limit == 3 * limits[s.name] for s in short)


def test_two_devices_or_a_word_that_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "devices", lambda: 1)
    (alone,) = (s for s in plan.Plan().steps(tmp_path) if s.name == "two-devices")
    assert alone.skipped == "one device"
    monkeypatch.setattr(plan, "devices", lambda: 2)
    (both,) = (s for s in plan.Plan().steps(tmp_path) if s.name == "two-devices")
    assert not both.skipped
    assert both.commands[0].words[-2:] == ("--device", "cuda")
    line = "Dice, channel_axis           48.9% off      {} off          3     40\n"
    (tmp_path / "output.log").write_text("a warning\n" + line.format("2e-16"))
    assert both.read(tmp_path) == {"off": {"Dice, channel_axis": 2e-16}}
    for wrong in (line.format("2e-03"), "nothing\n"):
        (tmp_path / "output.log").write_text(wrong)
        with pytest.raises(ValueError, match="wanted 1e-12"):
            both.read(tmp_path)


def test_losses_apart():
    figures = {"cuda": {"steps": [1.0, 2.0, 3.3]}, "cpu": {"steps": [1.0, 2.02, 3.0]}}
    assert curves.apart(figures, "cuda") == pytest.approx(0.1)
    assert curves.apart(figures, "cuda", 2) == pytest.approx(0.02 / 2.02)
    assert curves.apart(figures, "cpu") is None


def test_page_of_a_gpu(tmp_path):
    asked = plan.Plan(data=tmp_path)
    results = [steps.Result(one) for one in asked.steps(tmp_path)]
    by_name = {result.step.name: result for result in results}
    rows = [
        report.Row(
            *("bandwidth", name, options, "copy", False, 2**26, "triton", (ms, 1.0), (ms, ms, ms)),
            kernels=(1, 2),
            on_device=(device, 0.0),
        )
        for name, options, ms, device in (
            ("F.binary_cross_entropy_with_logits", "", 2.5, 0.0),
            ("dice", "arctan", 1.25, 1.1),
        )
    ]
    by_name["benchmarks"].figures = report.Results({}, rows).as_dict()
    by_name["judge-torch"].figures = {"passed": False, "judged": 7, "failures": [], "worst": {}}
    by_name["cats_vs_dogs-torch"].figures = {
        device: {"steps": [loss], "history": [{"loss": loss, "seconds": 1.0}]}
        for device, loss in (("cuda", 0.5), ("cpu", 0.4))
    }
    text = page.markdown(results, asked, tmp_path, 1.0)
    assert "| F.binary_cross_entropy_with_logits | 2.500 | 40% | 1.00 | - | - |" in text
    assert "| dice, arctan | 1.250 | 80% | 0.50 | 1.100 | 91% |" in text
    assert (
        "| dice, arctan | copy | 1.25 (1.25-1.25) | 1.25 / 1 | triton | 1 / 2 | 1.1 / 0 |" in text
    )
    assert "| the judge, torch | NO | 7 |" in text
    assert "| cats_vs_dogs, torch | cuda | 0.5000 | 1.0 | 0.25 | 0.25 |" in text
    assert str(tmp_path) not in text


def test_page_without_a_gpu(tmp_path):
    """A training on the CPU alone is beside nothing."""
    asked = plan.Plan("cpu", short=True)
    results = [steps.Result(one) for one in asked.steps(tmp_path)]
    by_name = {result.step.name: result for result in results}
    by_name["cats_vs_dogs-torch"].figures = {
        "cpu": {"steps": [0.5], "history": [{"loss": 0.5, "seconds": 1.0}]}
    }
    text = page.markdown(results, asked, tmp_path, 1.0)
    assert "| cats_vs_dogs, torch | cpu | 0.5000 | 1.0 |\n" in text
    assert "apart" not in text


def test_kernels_alone_are_counted():
    import torch

    kinds = torch.autograd.DeviceType
    seen = [
        ("vectorized_elementwise_kernel", kinds.CUDA, False, True),
        ("Memcpy DtoD (Device -> Device)", kinds.CUDA, False, False),
        ("Memset (Device)", kinds.CUDA, False, False),
        ("a remark", kinds.CUDA, True, False),
        ("aten::mul", kinds.CPU, False, False),
    ]
    for name, kind, remark, counted in seen:
        event = SimpleNamespace(name=name, device_type=kind, is_user_annotation=remark)
        assert measure.is_kernel(event) is counted, name


def run(tmp_path, *options):
    command = [sys.executable, "-m", "scripts.gpu", "--output", str(tmp_path / "out"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )


def test_short_run(tmp_path):
    done = run(tmp_path, *("--interpret", "--only", "machine", "--only", "judge-torch"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    machine, judge = found["steps"]
    assert machine["figures"]["copy_bandwidth"] > 0
    assert machine["figures"]["kernels"] == "yes"
    assert judge["commands"][0].startswith("TRITON_INTERPRET=1 SEGACT_KERNELS=triton ")
    assert judge["status"] == "done"
    assert judge["figures"]["passed"] is True
    assert judge["figures"]["worst"]["bound"] == "4 / 8"
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert "| Triton's kernels | yes |" in text
    assert "| the judge, torch | yes |" in text
    assert str(ROOT) not in text


@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_without_a_gpu_the_run_on_one_fails_and_says_why(tmp_path):
    done = run(tmp_path, *("--only", "benchmarks", "--only", "judge-torch"))
    assert done.returncode == 1
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    benchmarks, judge = found["steps"]
    assert benchmarks["status"] == "failed"
    assert benchmarks["reason"] == "exit code 2: benchmarks: torch sees no CUDA device"
    assert (judge["status"], judge["reason"]) == ("skipped", "torch sees no CUDA device")


def test_wrong_usage(tmp_path):
    done = run(tmp_path, "--only", "judge-torhc")
    assert done.returncode == 2
    assert "did you mean" in done.stderr
