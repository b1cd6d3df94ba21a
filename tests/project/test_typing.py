"""What an editor and a type checker see of the losses: every option, its type and its default.

mypy and basedpyright read `typing/wrong.py`, where each marked line is a call that must be
reported, and `typing/right.py`, where nothing may be.
"""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mirror
import namespaces
import pytest

HERE = Path(__file__).parent / "typing"
ROOT = mirror.ROOT
WRONG, RIGHT = HERE / "wrong.py", HERE / "right.py"

# The loss classes by package: the name of the class, and of its function.
CLASSES = {
    "segact_torch": {f"{c}Loss": f for f, c in namespaces.TorchNamespace.classes.items()},
    "segact_tf": {c: f for f, c in namespaces.KerasNamespace.classes.items()},
}
EVERY = [(package, name) for package, names in CLASSES.items() for name in names]

# What goes into the call and not into the constructor.
TENSORS = {"input", "target", "weight", "mask", "y_true", "y_pred", "sample_weight"}


def marked():
    lines = WRONG.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("  # error")}


def mypy():
    """File and line of each error, by the settings of pyproject.toml."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--no-error-summary", "--no-pretty", str(WRONG), str(RIGHT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (0, 1), done.stderr
    found = re.findall(r"^(.+?):(\d+): error:", done.stdout, re.MULTILINE)
    return {(Path(name).name, int(line)) for name, line in found}


def basedpyright(tmp_path):
    """File and line of each error, in the mode that reports errors and no matters of style."""
    settings = {
        "include": [str(WRONG), str(RIGHT)],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "standard",
        "reportMissingTypeStubs": False,
    }
    config = tmp_path / "pyrightconfig.json"
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--project", str(config)]
    command += ["--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (0, 1), done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 2
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1)
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    }


@pytest.mark.needs("mypy", "torch")
def test_mypy_reports_the_wrong_calls_alone():
    assert mypy() == {("wrong.py", line) for line in marked()}


@pytest.mark.needs("basedpyright", "torch", "keras")
def test_basedpyright_reports_the_wrong_calls_alone(tmp_path):
    assert basedpyright(tmp_path) == {("wrong.py", line) for line in marked()}


def constructor_options(package, name):
    """What the constructor takes, with types and defaults: the function's, and Keras's own."""
    module = pytest.importorskip(package)
    function = inspect.signature(getattr(module, CLASSES[package][name])).parameters
    found = [parameter for option, parameter in function.items() if option not in TENSORS]
    if package == "segact_tf":
        found += inspect.signature(_keras_own).parameters.values()
    return found


def _keras_own(
    *,
    reduction: str | None = "sum_over_batch_size",
    name: str | None = None,
    dtype: Any = None,
) -> None: ...


def shown(parameter):
    annotation = inspect.formatannotation(parameter.annotation)
    return parameter.name, parameter.kind, parameter.default, annotation


@pytest.mark.parametrize(("package", "name"), EVERY)
def test_a_constructor_has_the_options_of_its_function(package, name):
    pytest.importorskip(package)
    kind = getattr(sys.modules[package], name)
    assert [shown(p) for p in inspect.signature(kind).parameters.values()] == [
        shown(p) for p in constructor_options(package, name)
    ]


@pytest.mark.parametrize(("package", "name"), EVERY)
def test_a_constructor_spells_its_options_out(package, name):
    """In the source, where an editor looks, with an annotation for each."""
    for tree in mirror.modules(package).values():
        method = mirror.definitions(tree).get(f"{name}.__init__")
        if method is not None:
            break
    assert method is not None
    arguments = [*method.args.args[1:], *method.args.kwonlyargs]
    assert method.args.vararg is None
    assert method.args.kwarg is None
    assert all(each.annotation for each in arguments)
    assert {each.arg for each in arguments} == {p.name for p in constructor_options(package, name)}


def calls(path):
    """The calls of a file, one a statement: the class with its package, and the call."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            package, _, name = ast.unparse(node.value.func).partition(".")
            yield (package, name), node.value


@pytest.mark.parametrize(("package", "name"), EVERY)
@pytest.mark.parametrize("path", [WRONG, RIGHT], ids=["wrong", "right"])
def test_the_calls_have_every_option(package, name, path):
    named = {
        keyword.arg
        for kind, call in calls(path)
        if kind == (package, name)
        for keyword in call.keywords
    }
    options = {parameter.name for parameter in constructor_options(package, name)}
    if path == WRONG:
        options -= {"dtype"} | ({"pos_weight"} if package == "segact_tf" else set())
        options |= {"smoth"}
    assert options - named == set()


def test_each_wrong_call_is_marked():
    found = {call.lineno for _, call in calls(WRONG)}
    assert found == marked()
    assert len(found) > 200
