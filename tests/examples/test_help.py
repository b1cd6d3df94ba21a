"""What the programs say of themselves, and of a run that is not theirs."""

import json
import re
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the examples' own needs are not installed")

import typer
from typer.testing import CliRunner

from examples.cats_vs_dogs import cli as cats_vs_dogs
from examples.cats_vs_dogs.options import Options as CatsOptions
from examples.segmentation import cli as segmentation
from examples.segmentation.options import Options as SegmentationOptions
from parity import cli as parity
from parity.suite.case import ACTIVATIONS, CONVENTIONS
from parity.training import run as training

APPS = {"cats_vs_dogs": cats_vs_dogs.app, "segmentation": segmentation.app, "parity": parity.app}


def parameters(app: typer.Typer):
    """Every option and argument that is shown, by the words that it is typed with."""
    for name, command in typer.main.get_command(app).commands.items():
        for parameter in command.params:
            if parameter.name != "help" and not getattr(parameter, "hidden", False):
                yield name, parameter.name, parameter.help or ""


@pytest.mark.parametrize("app", APPS)
def test_every_help_stands_alone(app: str) -> None:
    """None needs the name of the option before it: "Of it.", "How many of them."."""
    found = list(parameters(APPS[app]))
    assert len(found) > 30
    for command, name, text in found:
        where = f"{command} {name}: {text}"
        assert len(text.split()) >= 3, where
        assert text.endswith("."), where
        assert not re.match(r"(Of|That|Its|Their|There|Another)\b(?! record)", text), where
        assert not re.search(r"\bof (it|them)\.", text), where


@pytest.mark.parametrize("app", APPS)
def test_every_help_fits_a_terminal_of_80_columns(app: str) -> None:
    """No name is cut, and no line is broken where the text has a break, too."""
    run = partial(CliRunner().invoke, APPS[app], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})
    found = run(["--help"]).output
    assert all(line in found for line in (APPS[app].info.help or "").splitlines()[2:])
    for command in typer.main.get_command(APPS[app]).commands:
        text = run([command, "--help"]).output
        assert "Usage" in text
        assert "…" not in text, text


NAMES = {
    "activation": ACTIVATIONS,
    "activations": ACTIVATIONS,
    "convention": CONVENTIONS,
    "loss": training.LOSSES,
}


@pytest.mark.parametrize("app", APPS)
def test_options_that_take_names_list_them(app: str) -> None:
    taken = set()
    for command, name, text in parameters(APPS[app]):
        for each in NAMES.get(name, ()):
            assert re.search(rf"\b{each}\b", text), (command, name, each)
            taken.add(name)
    assert taken >= {"activation", "loss"}


def run_of(tmp_path: Path, options: object) -> Path:
    """A finished run of either example, with nothing but its configuration."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = {"format": 1, "finished": True, "stopped": "", "epochs": 3, "data": {}}
    (folder / "config.json").write_text(json.dumps({**config, "options": options.as_dict()}))
    return folder


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        ("cats_vs_dogs", ["figures", "RUN"]),
        ("cats_vs_dogs", ["table", "RUN"]),
        ("cats_vs_dogs", ["compare", "RUN", "RUN"]),
        ("cats_vs_dogs", ["train", "--resume", "--out", "RUN"]),
        ("segmentation", ["compare", "RUN", "RUN"]),
        ("segmentation", ["predict", "RUN", "--image", "a.png"]),
        ("segmentation", ["train", "--resume", "--out", "RUN"]),
        ("segmentation", ["figures", "RUN"]),
        ("segmentation", ["table", "RUN"]),
    ],
)
def test_a_run_of_the_other_example_is_refused(
    tmp_path: Path, app: str, arguments: list[str]
) -> None:
    other = SegmentationOptions() if app == "cats_vs_dogs" else CatsOptions()
    folder = run_of(tmp_path, other)
    before = sorted(folder.iterdir())
    typed = [str(folder) if word == "RUN" else word for word in arguments]
    result = CliRunner().invoke(APPS[app], typed)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    wanted = "no sweep" if app == "segmentation" and len(arguments) == 2 else "of another example"
    assert line.startswith(f"{app}: {folder}: ")
    assert wanted in line
    assert sorted(folder.iterdir()) == before
