"""Losses over a process group equal the single process's with the whole batch.

The processes of each world size are started once and go through everything; `ranks.py` is what
they run.
"""

import copy
import json
import os
import pickle
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import namespaces  # noqa: E402
import ranks  # noqa: E402

import segact_torch  # noqa: E402
from segact_torch import _backends, _distributed, functional, losses  # noqa: E402

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(
        not torch.distributed.is_available() or sys.platform == "win32", reason="needs gloo"
    ),
    pytest.mark.skipif(not (ROOT / "scripts").exists(), reason="needs a source checkout"),
]
SUPPORT = ROOT / "tests" / "support"
CLASSES = [f"{name}Loss" for name in namespaces.TorchNamespace.classes.values()]
MODERN = torch.torch_version.TorchVersion(torch.__version__) >= "2.6"  # compiles the losses

# Value and gradient.
WIDE, NARROW = (1e-12, 1e-12), (1e-6, 1e-5)


def start(arguments, folder, name, more=None):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **(more or {})}
    log = (folder / f"{name}.log").open("w")
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def wait(processes, folder):
    try:
        codes = [each.wait(timeout=600) for each in processes]
    finally:
        for each in processes:
            each.kill()
    logs = "".join(path.read_text() for path in sorted(folder.glob("*.log")))
    assert not any(codes), logs[-4000:]


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """What the ranks found, by world size: of each rank, by name."""
    by_world = {}

    def of(world):
        if world not in by_world:
            by_world[world] = None
            folder = tmp_path_factory.mktemp(f"ranks{world}")
            wait(
                [start([SUPPORT / "ranks.py", r, world, folder], folder, r) for r in range(world)],
                folder,
            )
            files = [folder / f"{rank}.json" for rank in range(world)]
            by_world[world] = [json.loads(file.read_text()) for file in files]
        assert by_world[world] is not None, "the ranks failed before"
        return by_world[world]

    return of


def within(each, bounds):
    """Whether value and gradient are."""
    return all(error <= bound for error, bound in zip(each, bounds, strict=True))


@pytest.mark.parametrize("name", ranks.CASES)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_value_and_gradient_are_those_of_one_process(found, world, name):
    for of_rank in found(world):
        for split in ranks.SPLITS:
            error = of_rank[f"{name}; {split}; torch.float64"]
            assert within(error, WIDE), (split, error)
        error = of_rank[f"{name}; uneven; torch.float32"]
        assert within(error, NARROW), error


@pytest.mark.parametrize("name", ranks.CHECKS)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_what_a_step_does(found, world, name):
    for of_rank in found(world):
        assert of_rank[name] <= 1e-12


@pytest.mark.skipif(not MODERN, reason="PyTorch compiles the losses from 2.6 on")
@pytest.mark.parametrize("name", ranks.COMPILED)
def test_compiled_code_does_the_same(found, name):
    _, dtype, _ = ranks.COMPILED[name]
    for of_rank in found(2):
        error = of_rank[f"compiled: {name}"]
        assert within(error, WIDE if dtype == torch.float64 else NARROW), error


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(
    ("error", "name"), [(error, name) for error, names in ranks.PLANTED.items() for name in names]
)
def test_a_planted_error_is_found(found, world, error, name):
    for of_rank in found(world):
        assert max(of_rank[f"planted: {error}; {name}"]) > 1e-3


def test_what_a_step_moves(found):
    """In bytes, forward and then backward, of a batch of two channels: docs/scaling.md has it."""
    for of_rank in found(2):
        moved = of_rank["what is moved"]
        assert moved["dice"] == [16, 16]
        assert moved["dice, channel_axis"] == [2 * 16, 2 * 8, 2 * 16]
        assert moved["dice, per_sample"] == [8, 8, 8]
        assert moved["binary_cross_entropy"] == [8, 8, 8]
        assert moved["dice_cross_entropy"] == [16, 8, 8, 8, 16]
    assert not any(found(1)[0]["what is moved"].values())


def test_one_rank_has_the_bits_of_no_group(tmp_path):
    """And with a group an empty input is no error."""
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        x, y = torch.linspace(-3, 4, 24).reshape(2, 3, 4), torch.ones(2, 3, 4)
        group = torch.distributed.new_group([0])
        for name in (*ranks.ELEMENTWISE, *ranks.OVERLAP):
            loss = getattr(functional, name)
            for each in ("world", group):
                assert torch.equal(loss(x, y, process_group=each), loss(x, y))
            assert loss(x[:0], y[:0], process_group=group) == 0
            with pytest.raises(ValueError, match="input is empty"):
                loss(x[:0], y[:0])
        for kind in CLASSES:
            check_copies(kind, group)
    finally:
        torch.distributed.destroy_process_group()


def check_copies(kind, group):
    """A group is not pickled; a copy in this process has it, and so has "world" everywhere."""
    options = {"per_sample": True} if kind.startswith("Lovasz") else {}
    loss = getattr(losses, kind)(process_group=group, **options)
    for copied in (copy.copy(loss), copy.deepcopy(loss)):
        assert copied.options["process_group"] is group
        assert copied is not loss
    with pytest.raises(TypeError, match="process_group belongs to this process"):
        pickle.dumps(loss)
    loss = getattr(losses, kind)(process_group="world", **options)
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert repr(again) == repr(loss)
        assert "process_group='world'" in repr(again)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_has_the_group_of_its_function(kind):
    assert getattr(losses, kind)().options["process_group"] is None
    with pytest.raises(TypeError, match="process_group must be None, 'world' or"):
        getattr(losses, kind)(process_group=0)
    with pytest.raises(ValueError, match="process_group must be None, 'world' or"):
        getattr(losses, kind)(process_group="wold")


@pytest.mark.parametrize("name", [*ranks.ELEMENTWISE, *ranks.OVERLAP])
def test_the_world_has_to_be_there(name):
    with pytest.raises(ValueError, match=r"process_group='world' .*init_process_group first"):
        getattr(functional, name)(torch.zeros(2), torch.ones(2), process_group="world")


@pytest.mark.parametrize("name", ranks.LOVASZ)
def test_a_lovasz_loss_is_not_summed_over_ranks(name):
    with pytest.raises(ValueError, match=r"process_group must be None .* sorts all errors"):
        getattr(functional, name)(torch.zeros(2), torch.ones(2), process_group="world")
    kind = "LovaszLoss" if name == "lovasz" else "LovaszHingeLoss"
    with pytest.raises(ValueError, match=r"process_group must be None .* sorts all errors"):
        getattr(losses, kind)(process_group="world")


def test_without_a_group_nothing_is_exchanged(monkeypatch):
    monkeypatch.setattr(_distributed, "_exchanged", None)
    monkeypatch.setattr(_backends, "all_mean", None)
    x = torch.linspace(-3, 4, 24).reshape(2, 3, 4).requires_grad_()
    for name in (*ranks.ELEMENTWISE, *ranks.OVERLAP):
        getattr(functional, name)(x, torch.ones(2, 3, 4), "linear").backward()


PAGE = ROOT / "docs" / "scaling.md"


def words(line):
    """Those of a line of the table, less what rounding errors make of an exact gradient."""
    return [word for word in line.split() if not re.fullmatch(r"\de[-+]\d\d", word)]


@pytest.mark.skipif(not PAGE.exists(), reason="needs a source checkout")
def test_the_table_of_the_page(found):
    printed = re.search(r"local_and_global.py\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    table = found(2)[0]["the table of docs/scaling.md"]
    assert [words(line) for line in printed.splitlines()] == [words(line) for line in table]
    for line in table[1:]:
        assert float(re.search(r"(\de[-+]\d\d) off", line)[1]) < 1e-14


@pytest.mark.skipif(not PAGE.exists(), reason="needs a source checkout")
def test_the_program_of_the_page(tmp_path):
    code, printed = re.search(
        r"```py\n(# train.py\n.*?)```.*?```text\n(.*?)```", PAGE.read_text(), re.DOTALL
    ).groups()
    program = tmp_path / "train.py"
    program.write_text(code)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    by_torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        start([program], tmp_path, rank, {**by_torchrun, "RANK": str(rank)}) for rank in (0, 1)
    ]
    wait(processes, tmp_path)
    found = (tmp_path / "0.log").read_text().splitlines()[-3:]
    for line, wanted in zip(found, printed.splitlines(), strict=True):
        assert line[:7] == wanted[:7]
        assert abs(float(line[7:]) - float(wanted[7:])) < 1e-3


@pytest.mark.needs("lightning")
def test_lightning_trains_two_processes_to_the_weights_of_one(tmp_path):
    """SGD in float64, with as many ignored pixels as it happens; local losses do not."""
    wait([start([SUPPORT / "lightning_ranks.py", tmp_path], tmp_path, "lightning")], tmp_path)
    weights = {name: torch.load(tmp_path / f"{name}.pt") for name in ("one", "world", "local")}
    for name, each in weights["one"].items():
        assert (weights["world"][name] - each).abs().max() <= 1e-9
    assert any(
        (weights["local"][name] - each).abs().max() > 1e-4 for name, each in weights["one"].items()
    )
    assert segact_torch.DiceLoss().options["process_group"] is None
