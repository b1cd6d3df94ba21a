"""A program without a package of its extra says in one line what to install."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from parity.common.extras import PACKAGES, advice

ROOT = Path(__file__).parents[2]

MODULES = {"pillow": "PIL", "segmentation-models-pytorch": "segmentation_models_pytorch"}
"""What a distribution is imported as, where it has another name."""

OF_PARITY = ("typer", "rich", "mpmath", "safetensors")
REPORT = ("jinja2", "junitparser", "matplotlib")
RUNS = [
    *(("segact-parity", "parity", package, ["-m", "parity", "run"]) for package in OF_PARITY),
    *(("segact-parity", "parity", p, ["-m", "parity", "run", "--report", "."]) for p in REPORT),
    ("segact-parity", "parity", "jinja2", ["-m", "parity", "train", "--report", "."]),
    (
        *("segact-parity", "parity", "matplotlib"),
        ["-m", "parity", "conventions", "--figure", "a.png"],
    ),
    *(
        ("benchmarks", "benchmarks", package, ["-m", "benchmarks"])
        for package in ("torch", "typer")
    ),
    *(
        (name, "examples", package, ["-m", f"examples.{name}"])
        for name in ("cats_vs_dogs", "segmentation")
        for package in ("typer", "mpmath")
    ),
    *(
        (name, "sweep", "distributed", ["-m", f"examples.{name}", command, "--out", "out"])
        for name, command in (("cats_vs_dogs", "experiment"), ("segmentation", "sweep"))
    ),
    ("gpu", "dev", "typer", ["-m", "scripts.gpu"]),
    ("draw_activations", "dev", "matplotlib", [f"{ROOT}/scripts/draw_activations.py"]),
    ("fit_special", "dev", "mpmath", [f"{ROOT}/scripts/fit_special.py"]),
    ("tasks_a_second", "sweep", "distributed", [f"{ROOT}/scripts/tasks_a_second.py"]),
    ("triton_resources", "dev", "triton", [f"{ROOT}/scripts/triton_resources.py"]),
]


@pytest.fixture
def without(tmp_path):
    """Runs Python as if a package were not installed."""
    folder = tmp_path / "absent"
    folder.mkdir()

    def run(package, arguments):
        error = f'ModuleNotFoundError("No module named {package!r}", name={package!r})'
        (folder / f"{package}.py").write_text(f"raise {error}\n")
        path = os.pathsep.join([str(folder), str(ROOT)])
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.mark.parametrize(("program", "extra", "package", "arguments"), RUNS)
def test_one_line_says_which_extra(without, program, extra, package, arguments):
    done = without(package, arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr == (
        f"{program}: {package} is not installed; wanted the extra {extra}: "
        f"pip install 'segact[{extra}]', or in a clone pip install -e '.[{extra}]'\n"
    )


@pytest.mark.parametrize("package", ["mpmath", "safetensors"])
def test_the_library_says_so_too(without, package):
    done = without(package, ["-c", "from parity import weights, assert_parity"])
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: parity: {package} is not installed; wanted")
    assert "segact[parity]" in last


@pytest.mark.parametrize("package", ["mpmath", "jinja2", "junitparser", "rich"])
def test_the_plugin_says_so_in_one_line(without, tmp_path, package):
    (tmp_path / "test_it.py").write_text("def test_it(parity):\n    pass\n")
    pytest_ = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    words = f"{package} is not installed; wanted the extra parity: pip install 'segact[parity]'"
    reported = without(package, [*pytest_, "--parity-report", "found"])
    assert reported.returncode == 4
    assert f"ERROR: --parity-report: {words}" in reported.stderr
    if package == "mpmath":
        used = without(package, pytest_)
        assert f"the fixture parity: {words}" in used.stdout
        assert "Traceback" not in used.stdout
        assert "During handling" not in used.stdout


def test_a_package_of_no_extra_is_an_error_as_ever(without):
    code = (
        "from parity.common.extras import needs\nwith needs('p', 'parity'):\n    import mine_alone"
    )
    done = without("mine_alone", ["-c", code])
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert advice(ModuleNotFoundError("nameless"), "parity") == ""


def test_the_packages_are_those_of_the_extras():
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("needs a source checkout")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {
        re.split(r"[\[>=; ]", requirement)[0]
        for extra in extras
        if extra != "dev"
        for requirement in extras[extra]
    }
    assert {MODULES.get(name, name) for name in names - {"segact"}} | {"triton"} == PACKAGES
