"""What an installed segact consists of."""

import importlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def installed(module):
    return importlib.util.find_spec(module) is not None


def test_one_version():
    version = importlib.metadata.version("segact")
    for package in ("segact_torch", "segact_tf"):
        text = Path(importlib.util.find_spec(package).origin).read_text()
        assert f'__version__ = "{version}"' in text, package


def test_the_page_of_losses_says_what_the_default_is_and_where_options_are():
    page = ROOT / "docs" / "losses.md"
    if not page.is_file():
        pytest.skip("needs a source checkout")
    text = " ".join(page.read_text().split())
    assert "any activation; the default is the sigmoid" in text
    for package in ("segact_torch", "segact_tf"):
        assert f"`help({package}.functional)`" in text
        if installed(package.replace("segact_tf", "keras").replace("segact_torch", "torch")):
            words = importlib.import_module(f"{package}.functional").__doc__
            assert 'None is "sigmoid"' in words


def test_types_are_shipped():
    for package in ("segact_torch", "segact_tf", "parity"):
        origin = Path(importlib.util.find_spec(package).origin)
        assert (origin.parent / "py.typed").is_file(), package


def test_base_dependency_is_numpy_alone():
    required = importlib.metadata.requires("segact")
    assert [r for r in required if "extra ==" not in r] == ["numpy>=1.26"]


def test_console_script_and_module_are_the_same():
    versions = {
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in (
            [str(Path(sys.executable).parent / "segact-parity"), "--version"],
            [sys.executable, "-m", "parity", "--version"],
        )
    }
    assert len(versions) == 1


def test_importing_the_judge_loads_no_framework():
    pytest.importorskip("typer")
    others = ("torch", "keras", "tensorflow", "jax")
    code = (
        "import sys, json, parity.cli; "
        f"print(json.dumps([m for m in {others} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_wheel_holds_the_packages_alone(tmp_path):
    if not (ROOT / "pyproject.toml").is_file() or not installed("build"):
        pytest.skip("needs a source checkout and build")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.split("/")[0] for n in names if ".dist-info/" not in n}
    assert tops == {"segact_torch", "segact_tf", "parity"}
    if sys.platform == "linux":  # the loops know nothing of Python, nor of its version
        assert wheel.name.split("-")[2:4] == ["py3", "none"]
        assert "segact_torch/_backends/_cpu.so" in names
    assert {"parity/reference/record.safetensors", "parity/report/templates/report.html"} <= set(
        names
    )


def test_python_versions_and_extras_are_declared():
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("needs a source checkout")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert set(project["optional-dependencies"]) == {
        "torch",
        "keras",
        "jax",
        "parity",
        "benchmarks",
        "examples",
        "sweep",
        "dev",
    }
