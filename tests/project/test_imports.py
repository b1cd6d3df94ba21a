"""Which package may import which, and how long a function and a file may be.

Imports are read from the source. `LATE` lists the imports inside of functions. An entry that is not
needed any more fails.
"""

import ast
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import imports
import pytest

PACKAGES = ("segact_torch", "segact_tf")

# At import: the framework and numpy, and the package itself.
AT_IMPORT = {
    "segact_torch": {"segact_torch", "torch", "numpy"},
    "segact_tf": {"segact_tf", "keras", "numpy"},
}

# By module, what a backend imports; the backend itself is imported when it is first used.
OF_A_BACKEND = {
    (f"segact_torch._backends.triton.{module}", "triton")
    for module in ("arithmetic", "activations", "kernels")
}

# By module, what it imports inside of its functions.
LATE = {
    # whether the active backend has float64 and is compiling, bits, and custom derivatives
    "segact_tf._engine": {"jax", "tensorflow", "torch"},
}

# Which modules import an implementation: the adapters, and those that run in their own process.
OF_AN_IMPLEMENTATION = {
    "parity.judge.adapters.torch": {"segact_torch"},
    "parity.judge.adapters.keras": {"segact_tf"},
    "parity.conventions.worker": {"segact_torch", "segact_tf"},
    "parity.training.worker": {"segact_torch", "segact_tf"},
}

# The subpackages of parity, and which others each may import.
SUBPACKAGES = {
    "common": set(),
    "suite": {"common"},
    "frameworks": {"common"},
    "reference": {"suite", "common"},
    "accuracy": {"reference", "suite", "common"},
    "weights": {"common"},
    "models": {"weights", "common"},
    "training": {"suite", "weights", "frameworks", "common"},
    "conventions": {"frameworks", "common"},
    "functions": {"accuracy", "reference", "suite", "frameworks", "common"},
    "judge": {"accuracy", "reference", "suite", "frameworks", "common"},
    "report": {
        *("judge", "accuracy", "conventions", "training", "suite", "frameworks", "common"),
    },
}
SUBPACKAGES["cli"] = {*SUBPACKAGES}
# The files directly in parity, and what each module of them imports.
FLAT = {"__init__.py", "__main__.py", "pytest_plugin.py", "py.typed"}
DIRECT = {
    "parity": {"parity.common"},  # its other names are imported when they are first used
    "parity.__main__": {"parity.cli", "parity.common"},
    "parity.pytest_plugin": {"parity", "parity.common", "parity.functions", "parity.report"},
}

LINES_OF_A_FUNCTION = 60
LINES_OF_A_FILE = 600


def by_module(found):
    table = {}
    for each in found:
        table.setdefault(each.module, set()).add(each.top)
    return table


@pytest.mark.parametrize("package", PACKAGES)
def test_at_import_a_framework_and_numpy_alone(package):
    found = {(i.module, i.top) for i in imports.imports(package) if not i.late}
    more = {pair for pair in found if pair[1] not in AT_IMPORT[package]}
    assert more == {pair for pair in OF_A_BACKEND if pair[0].startswith(package)}


def test_late_imports_are_listed():
    late = [
        each
        for package in PACKAGES
        for each in imports.imports(package)
        if each.late and each.top not in AT_IMPORT[package]
    ]
    assert by_module(late) == LATE


def test_the_packages_import_neither_each_other_nor_parity():
    for package, other in zip(PACKAGES, reversed(PACKAGES), strict=True):
        tops = {each.top for each in imports.imports(package)}
        assert not tops & {other, "parity", "benchmarks", "examples", "scripts", "tests"}, package


def test_the_judge_imports_an_implementation_in_a_process_of_its_own():
    found = by_module(i for i in imports.imports("parity") if i.top in PACKAGES)
    assert found == OF_AN_IMPLEMENTATION


@pytest.mark.parametrize("package", [*PACKAGES, "parity", "benchmarks", "scripts"])
def test_nothing_imports_the_examples(package):
    assert "examples" not in {each.top for each in imports.imports(package)}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_circle(package):
    assert imports.circles(package) == []


def subpackage(module):
    """`parity.suite.cases` is in `parity.suite`."""
    return ".".join(module.split(".")[:2])


def imported_subpackages():
    table = {}
    for each in imports.imports("parity"):
        if each.top == "parity":
            place = each.module if each.module in DIRECT else subpackage(each.module)
            table.setdefault(place, set()).add(subpackage(each.name))
    return table


def test_the_subpackages_of_parity_import_what_they_may():
    found = imported_subpackages()
    allowed = {
        f"parity.{name}": {f"parity.{other}" for other in {name, *others}}
        for name, others in SUBPACKAGES.items()
    } | DIRECT
    wrong = {name: others - allowed[name] for name, others in found.items()}
    assert {name: others for name, others in wrong.items() if others} == {}


def test_no_circle_in_parity():
    assert imports.circles("parity") == []


def test_files_directly_in_parity():
    folder = imports.ROOT / "parity"
    assert {path.name for path in folder.iterdir() if path.is_file()} == FLAT
    assert {path.parent.name for path in folder.glob("*/__init__.py")} == {*SUBPACKAGES}


@pytest.mark.parametrize("package", [*PACKAGES, "parity"])
def test_no_long_function(package):
    long = {
        f"{module}.{name}": length
        for module, tree in imports.sources(package).items()
        for name, length in imports.function_lengths(tree)
        if length > LINES_OF_A_FUNCTION
    }
    assert long == {}


def test_no_long_file():
    lengths = {
        module: imports.code_lines(imports.path(module).read_text("utf-8"))
        for package in PACKAGES
        for module in imports.sources(package)
    }
    assert {m: n for m, n in lengths.items() if n > LINES_OF_A_FILE} == {}


def test_no_file_of_parity_is_long():
    lengths = {
        module: len(imports.path(module).read_text("utf-8").splitlines())
        for module in imports.sources("parity")
    }
    assert {m: n for m, n in lengths.items() if n >= LINES_OF_A_FILE} == {}


@pytest.mark.parametrize(
    ("package", "first"), [("segact_torch", "torch, numpy"), ("segact_tf", "keras, numpy")]
)
def test_importing_loads_nothing_more(package, first):
    """In a new process, importing the package loads its framework and itself, nothing else."""
    if find_spec(first.partition(",")[0]) is None:
        pytest.skip("its framework is not installed")
    code = (
        f"import json, sys, {first}\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        f"import {package}\n"
        "print(json.dumps([n for n in sys.modules if n.partition('.')[0] not in before]))"
    )
    here = Path(find_spec(package).origin).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(here)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert loaded - set(sys.stdlib_module_names) == {package}


def test_what_is_found(tmp_path, monkeypatch):
    """The reader itself, on a package with every kind of import."""
    (tmp_path / "p").mkdir()
    files = {
        "__init__": "from p.a import f",
        "a": "import os, numpy as np\nfrom p import b\n\ndef f():\n    import jax.numpy as jnp",
        "b": "import sys\n\nclass C:\n    def g(self):\n        from p.a import f\n"
        "        t = sys.modules['torch']\n        return import_module('scipy.stats')",
        "c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import keras\n"
        "try:\n    import triton\nexcept ImportError:\n    pass",
    }
    for name, text in files.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    monkeypatch.setattr(imports, "ROOT", tmp_path)
    found = {(each.module, each.name, each.late) for each in imports.imports("p")}
    assert found == {
        ("p", "p.a", False),
        ("p.a", "numpy", False),
        ("p.a", "p.b", False),
        ("p.a", "jax.numpy", True),
        ("p.b", "p.a", True),
        ("p.b", "torch", True),
        ("p.b", "scipy.stats", True),
        ("p.c", "triton", False),
    }
    assert imports.circles("p") == [{"p.a", "p.b"}]
    assert imports.circles("p", late=False) == []


def test_what_is_counted():
    text = '"""Two\nlines."""\n\n# one\nx = (\n    1\n)\n\n\ndef f():\n    """Doc."""\n'
    text += '    return """a\n\nb"""\n'
    assert imports.code_lines(text) == 3 + 1 + 3
    assert dict(imports.function_lengths(ast.parse(text))) == {"f": 3}
