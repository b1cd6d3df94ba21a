"""The program of each rank of a process group, for test_distributed.py.

    python ranks.py RANK WORLD_SIZE FOLDER

Every rank makes the same whole batch, takes its part of it, and computes the loss with the group.
A single process computes the loss of the whole batch. Gradients are those of a parameter in the
shape of the whole batch, averaged over the ranks as in DDP. FOLDER gets one file for each rank: the
relative error of each check, by name.
"""

import contextlib
import json
import os
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.torch_version import TorchVersion
from torch.utils.checkpoint import checkpoint

import segact_torch
from segact_torch import _backends, _distributed, _sums, functional

SHAPE = (6, 2, 3, 4)
VOID = 255
# The number of samples of each rank, by number of ranks.
UNEVEN = {1: [6], 2: [1, 5], 3: [1, 2, 3]}
EMPTY = {1: [6], 2: [6, 0], 3: [4, 0, 2]}
SPLITS = {"uneven": UNEVEN, "empty": EMPTY, "ignored": UNEVEN}


@dataclass(frozen=True)
class Case:
    """A loss with its options, and the tensors of its batch."""

    loss: str
    options: dict[str, Any] = field(default_factory=dict)
    batch: tuple[str, ...] = ()


ELEMENTWISE = ("binary_cross_entropy", "binary_focal_cross_entropy", "mean_squared_error")
OVERLAP = ("dice", "jaccard", "tversky", "focal_tversky", "dice_cross_entropy")
LOVASZ = ("lovasz", "lovasz_hinge")
ACTIVATIONS = ("normal_cdf", "arctan", "softsign", "inverse_square_root", "hardtanh", "linear")


def cases() -> dict[str, Case]:
    found = {}
    for loss in (*ELEMENTWISE, *OVERLAP):
        found[loss] = Case(loss)
        for batch in ("weight", "mask", "void", "mask on one rank"):
            found[f"{loss}, {batch}"] = Case(loss, {}, (batch,))
        found[f"{loss}, linear"] = Case(loss, {"activation": "linear"}, ("mask on one rank",))
    for loss in OVERLAP:
        for groups in ({"per_sample": True}, {"channel_axis": 1}):
            (name,) = groups
            both = {"per_sample": True, "channel_axis": 1}
            found[f"{loss}, {name}"] = Case(loss, groups, ("void",))
            found[f"{loss}, {name}, smooth"] = Case(loss, {**groups, "smooth": 1.0}, ("mask",))
        found[f"{loss}, of channels that are absent"] = Case(
            loss, {"channel_axis": 1, "smooth": 1.0}, ("absent channel",)
        )
        found[f"{loss}, both"] = Case(loss, both, ("void", "weight"))
        found[f"{loss}, linear, channel_axis"] = Case(
            loss, {"channel_axis": 1, "activation": "linear"}, ("void",)
        )
    for loss in LOVASZ:
        found[f"{loss}, per_sample"] = Case(loss, {"per_sample": True}, ("mask", "hard"))
    linear = {"per_sample": True, "activation": "linear"}
    found["lovasz, linear, per_sample"] = Case("lovasz", linear, ("mask", "hard"))
    for loss in ("binary_cross_entropy", "dice"):
        for activation in ACTIVATIONS:
            found[f"{loss}, {activation}"] = Case(loss, {"activation": activation}, ("void",))
        for axis in ((0, 2, 3), (1, 2, 3), 0):
            linear = segact_torch.get_activation("linear", axis=axis)
            found[f"{loss}, linear over {axis}"] = Case(loss, {"activation": linear}, ("mask",))
    for loss in ("binary_cross_entropy", "dice_cross_entropy"):
        found[f"{loss}, pos_weight"] = Case(loss, {"pos_weight": 3.0}, ("void",))
        found[f"{loss}, pos_weight of channels"] = Case(loss, {}, ("pos_weight", "void"))
        found[f"{loss}, label_smoothing"] = Case(loss, {"label_smoothing": 0.1}, ("weight",))
    for loss in ("binary_cross_entropy", "binary_focal_cross_entropy", "mean_squared_error"):
        for reduction in ("sum", "none"):
            found[f"{loss}, {reduction}"] = Case(loss, {"reduction": reduction}, ("void",))
    for reduction in ("sum", "none"):
        of_samples = {"reduction": reduction, "per_sample": True}
        found[f"dice, per_sample, {reduction}"] = Case("dice", of_samples, ("void",))
        linear = {"reduction": reduction, "activation": "linear"}
        found[f"binary_cross_entropy, linear, {reduction}"] = Case(
            "binary_cross_entropy", linear, ("void",)
        )
        of_channels = {"reduction": reduction, "channel_axis": 1}
        found[f"dice, channel_axis, {reduction}"] = Case("dice", of_channels, ("void",))
    probabilities = {"from_logits": False, "convention": "keras"}
    found["binary_cross_entropy, keras"] = Case(
        "binary_cross_entropy", probabilities, ("probabilities", "void")
    )
    found["dice, no logits"] = Case("dice", {"from_logits": False}, ("probabilities", "void"))
    return found


CASES = cases()
# The upstream gradient of each rank is its own: the ranks' gradients add up to that of the whole.
OWN = [
    name
    for name, case in CASES.items()
    if case.options.get("reduction") in ("sum", "none") and "channel_axis" not in case.options
]
# A planted error must be found in each of these, on two and three ranks.
PLANTED = {
    "no all-reduce in the backward pass": ("dice", "binary_cross_entropy, void", "jaccard, both"),
    "times the world size": ("dice", "binary_cross_entropy, void", "tversky, channel_axis"),
    "the count of each rank": ("binary_cross_entropy, void", "mean_squared_error, mask"),
    "the areas of each rank": ("dice", "jaccard, void", "focal_tversky, channel_axis"),
    "the extremes of each rank": ("binary_cross_entropy, linear", "dice, linear"),
}
COMPILED = {
    "binary_cross_entropy, void": ("uneven", torch.float64, "aot_eager"),
    "dice, channel_axis": ("ignored", torch.float64, "aot_eager"),
    "mean_squared_error, linear": ("uneven", torch.float64, "aot_eager"),
    "dice, mask": ("empty", torch.float32, "aot_eager"),
    "dice_cross_entropy, void": ("empty", torch.float32, "inductor"),
}
if TorchVersion(torch.__version__) < "2.6":  # which cannot compile the losses as a whole
    COMPILED.clear()


class Whole:
    """A whole batch, the same on every rank, and the part of it that a rank has."""

    def __init__(self, case: Case, split: str, dtype: torch.dtype, rank: int, world: int) -> None:
        generator = torch.Generator().manual_seed(20)
        self.case = case
        self.x = torch.randn(SHAPE, generator=generator, dtype=torch.float64) * 3
        if "probabilities" in case.batch:
            self.x = self.x.sigmoid()
        self.x = self.x.to(dtype)
        self.y = (torch.rand(SHAPE, generator=generator) < 0.3).to(dtype)
        if "hard" not in case.batch:
            self.y = self.y * 0.875
        sizes = SPLITS[split][world]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.part = slice(ends[rank] - sizes[rank], ends[rank])
        mask = torch.rand(SHAPE, generator=generator) < 0.6
        weight = torch.rand((6, 1, 3, 4), generator=generator).to(dtype)
        last = slice(6 - sizes[-1], 6) if world > 1 else slice(0, 1)
        if (
            "absent channel" in case.batch
        ):  # the whole channel, and the other one except on the last rank
            mask[:, 0] = False
            mask[: last.start, 1] = False
        self.tensors: dict[str, torch.Tensor] = {}
        if "mask on one rank" in case.batch:
            mask[: last.start] = True
        # on the ranks before the last
        self.without_mask = "mask on one rank" in case.batch and self.part.stop <= last.start
        names = {"mask", "mask on one rank", "absent channel"}
        if split == "ignored":
            mask[last] = False
        if names & {*case.batch} or (split == "ignored" and "void" not in case.batch):
            kept = mask if names & {*case.batch} else torch.ones_like(mask)
            if split == "ignored":
                kept[last] = False
            self.tensors["mask"] = kept
        if "void" in case.batch:
            self.y[~mask] = VOID
        if "weight" in case.batch:
            self.tensors["weight"] = weight
        self.constants: dict[str, Any] = dict(case.options)
        if "void" in case.batch:
            self.constants["ignore_index"] = VOID
        if "pos_weight" in case.batch:
            self.constants["pos_weight"] = torch.tensor([0.5, 2.0]).reshape(2, 1, 1).to(dtype)

    def loss(self, x: torch.Tensor, group: Any = None, own: slice = slice(None)) -> torch.Tensor:
        tensors = {name: t[own] for name, t in self.tensors.items()}
        if self.without_mask and group is not None:
            tensors.pop("mask", None)
        function = getattr(functional, self.case.loss)
        result: torch.Tensor = function(
            x[own], self.y[own], **tensors, **self.constants, process_group=group
        )
        return result


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest number."""
    if found.shape != expected.shape:
        raise ValueError(f"shape {tuple(found.shape)} and not {tuple(expected.shape)}")
    if not expected.numel():
        return 0.0
    found, expected = found.detach().double(), expected.detach().double()
    if not bool(found.isfinite().all()):
        return float("inf")
    scale = expected.abs().max().clamp(min=1e-300)
    return float((found - expected).abs().max() / scale)


def average(gradient: torch.Tensor) -> torch.Tensor:
    """The mean of the ranks' gradients, as in DDP."""
    gradient = gradient.detach().clone()
    dist.all_reduce(gradient)
    return gradient / dist.get_world_size()


def single(whole: Whole) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and gradient of one process with the whole batch, in float64."""
    x = whole.x.double().clone().requires_grad_()
    value = whole.loss(x)
    value.sum().backward()
    assert x.grad is not None
    return value.detach(), x.grad


def errors(
    name: str, split: str, dtype: torch.dtype, factor: float = 1.0, compiled: str = ""
) -> tuple[float, float]:
    """The errors of value and gradient with the group; `factor` is this rank's own."""
    rank, world = dist.get_rank(), dist.get_world_size()
    whole = Whole(CASES[name], split, dtype, rank, world)
    value, gradient = single(whole)
    own = name in OWN
    per_sample = CASES[name].options.get("per_sample", False)
    of_elements = CASES[name].loss in ELEMENTWISE
    reduction = CASES[name].options.get("reduction", "mean")
    if reduction == "none" and (per_sample or of_elements):
        value = value[whole.part]
    x = whole.x.clone().requires_grad_()
    loss = whole.loss
    if compiled:
        torch._dynamo.reset()
        loss = torch.compile(loss, fullgraph=True, backend=compiled)
    found = loss(x, "world", whole.part)
    (found * factor).sum().backward()
    assert x.grad is not None
    averaged = average(x.grad) * (world if own else 1)
    factors = average(torch.tensor(factor, dtype=torch.float64)).item()
    if reduction == "sum" and own:
        found = average(found) * world
    return off(found, value.to(found.dtype)), off(averaged, gradient * factors)


@contextlib.contextmanager
def planted(error: str) -> Any:
    """Puts an error into the code, of a kind that was made elsewhere."""
    ours, world = _distributed._AllReduce.backward, dist.get_world_size()

    def of_each_rank(group: Any, mean: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        (total,) = _distributed.all_reduce(group, mean)
        return total / world

    with contextlib.ExitStack() as stack:

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.callback(setattr, owner, name, vars(owner)[name])
            setattr(owner, name, value)

        if error == "no all-reduce in the backward pass":
            backward = staticmethod(lambda ctx, *grads: (grads[0], None))
            replace(_distributed._AllReduce, "backward", backward)
        elif error == "times the world size":
            backward = staticmethod(lambda ctx, *grads: (ours(ctx, *grads)[0] * world, None))
            replace(_distributed._AllReduce, "backward", backward)
        elif error == "the count of each rank":
            replace(_backends, "all_mean", of_each_rank)
            replace(_sums, "all_mean", of_each_rank)
        elif error == "the areas of each rank":
            replace(_backends, "all_reduce", lambda group, *sums: sums)
        else:
            replace(segact_torch.activations, "all_extremes", lambda group, *both: both)
        yield


class Checks:
    """Further checks, each a method that returns its error."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    def whole(self, name: str, split: str = "uneven") -> Whole:
        return Whole(CASES[name], split, torch.float64, self.rank, self.world)

    def ranks_that_ask_for_different_amounts(self) -> float:
        names = (
            "dice, channel_axis",
            "binary_cross_entropy, void",
            "dice, linear",
            "jaccard, both",
        )
        factor = float(self.rank**2 + 1)
        return max(max(errors(name, "uneven", torch.float64, factor)) for name in names)

    def a_checkpoint(self) -> float:
        found = []
        for name in ("dice_cross_entropy, void", "binary_cross_entropy, linear"):
            for reentrant in (False, True):
                whole = self.whole(name, "empty")
                _, gradient = single(whole)
                x = whole.x.clone().requires_grad_()
                loss = checkpoint(whole.loss, x, "world", whole.part, use_reentrant=reentrant)
                loss.backward()
                found.append(off(average(x.grad), gradient))
        return max(found)

    def a_change_in_place(self) -> float:
        """As by `loss /= 4`, of one batch in four that are accumulated."""
        found = []
        for name in (*ELEMENTWISE, *OVERLAP, "dice, per_sample, sum"):
            whole = self.whole(name)
            _, gradient = single(whole)
            x = whole.x.clone().requires_grad_()
            loss = whole.loss(x, "world", whole.part)
            loss /= 4
            loss.backward()
            factor = 4 * (self.world if name in OWN else 1)
            found.append(off(average(x.grad) * factor, gradient))
        return max(found)

    def second_derivatives(self) -> float:
        found = []
        names = ("dice", "binary_cross_entropy, void", "binary_cross_entropy, linear")
        for name in (*names, "focal_tversky, per_sample"):
            whole = self.whole(name)
            v = torch.linspace(-1, 2, whole.x.numel(), dtype=torch.float64).reshape(SHAPE)
            x = whole.x.clone().requires_grad_()
            (first,) = torch.autograd.grad(whole.loss(x), x, create_graph=True)
            (expected,) = torch.autograd.grad((first * v).sum(), x)
            x = whole.x.clone().requires_grad_()
            value = whole.loss(x, "world", whole.part)
            (first,) = torch.autograd.grad(value, x, create_graph=True)
            (second,) = torch.autograd.grad((first * v).sum() / self.world, x)
            found.append(off(average(second) * self.world, expected))
        return max(found)

    def forward_mode(self) -> float:
        found = []
        for name in ("dice", "binary_cross_entropy, void", "binary_cross_entropy, linear"):
            whole = self.whole(name)
            v = torch.linspace(-1, 2, whole.x.numel(), dtype=torch.float64).reshape(SHAPE)
            _, expected = torch.func.jvp(whole.loss, (whole.x,), (v,))
            _, pushed = torch.func.jvp(
                lambda x, whole=whole: whole.loss(x, "world", whole.part), (whole.x,), (v,)
            )
            found.append(off(pushed, expected))
        return max(found)

    def a_tie_of_extremes_on_several_ranks(self) -> float:
        """Equal elements share the gradient of an extreme, on all ranks."""
        found = []
        for name in ("mean_squared_error, linear", "dice, linear, channel_axis"):
            whole = self.whole(name)
            flat = whole.x.view(-1)
            flat[[0, 3, -1]], flat[[5, -2]] = -20.0, 20.0
            value, gradient = single(whole)
            x = whole.x.clone().requires_grad_()
            loss = whole.loss(x, "world", whole.part)
            loss.backward()
            found += [off(loss, value), off(average(x.grad), gradient)]
        return max(found)

    def the_functional_gradient(self) -> float:
        found = []
        for name in ("dice, channel_axis", "binary_cross_entropy, linear"):
            whole = self.whole(name)
            gradient = torch.func.grad(lambda x, whole=whole: whole.loss(x, "world", whole.part))
            found.append(off(average(gradient(whole.x)), single(whole)[1]))
        return max(found)

    def network(self) -> nn.Module:
        torch.manual_seed(3)
        return nn.Conv2d(2, 2, 3, padding=1).double()

    def gradients(self, network: nn.Module) -> torch.Tensor:
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    def gradient_accumulation(self) -> float:
        """Two batches, the first without an exchange of gradients: the same as in one process."""
        alone, network = self.network(), self.network()
        ddp = nn.parallel.DistributedDataParallel(network)
        names = ("dice_cross_entropy, void", "jaccard, mask")
        for number, name in enumerate(names):
            whole = self.whole(name)
            whole.loss(alone(whole.x)).backward()
            last = number == len(names) - 1
            with contextlib.nullcontext() if last else ddp.no_sync():
                # the network gets only this rank's part
                whole.tensors = {k: t[whole.part] for k, t in whole.tensors.items()}
                whole.y = whole.y[whole.part]
                whole.loss(ddp(whole.x[whole.part]), "world").backward()
        return off(self.gradients(network), self.gradients(alone))

    def a_rank_without_a_sample_under_ddp(self) -> float:
        alone, network = self.network(), self.network()
        ddp = nn.parallel.DistributedDataParallel(network)
        whole = self.whole("dice_cross_entropy, void", "empty")
        whole.loss(alone(whole.x)).backward()
        whole.y = whole.y[whole.part]
        whole.loss(ddp(whole.x[whole.part]), "world").backward()
        return off(self.gradients(network), self.gradients(alone))

    def dtensor_without_a_group(self) -> float:
        """The sums of a DTensor are over all its parts without a group."""
        if TorchVersion(torch.__version__) < "2.5":  # private before
            return 0.0
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        mesh = init_device_mesh("cpu", (self.world,))
        whole, found = self.whole("dice"), []
        for activation in ("sigmoid", "linear"):
            alone = whole.x.clone().requires_grad_()
            value = segact_torch.dice(alone, whole.y, activation)
            value.backward()
            for dim in (0, 2):
                x, y = (distribute_tensor(t, mesh, [Shard(dim)]) for t in (whole.x, whole.y))
                x.requires_grad_()
                loss = segact_torch.dice(x, y, activation)
                loss.backward()
                found.append(off(loss.full_tensor(), value))
                found.append(off(x.grad.full_tensor(), alone.grad))
        with pytest.raises(ValueError, match="process_group must be None for a DTensor"):
            segact_torch.dice(x, y, process_group="world")
        with pytest.raises(ValueError, match="input must not be a DTensor"):
            segact_torch.lovasz(x, y)
        return max(found)

    def a_group_of_some_ranks(self) -> float:
        """A group without the first rank, and the error on the first rank."""
        if self.world < 3:
            return 0.0
        group = dist.new_group([1, 2])
        if self.rank == 0:
            with pytest.raises(TypeError, match=r"process_group must be .* this rank is in"):
                segact_torch.dice(torch.zeros(2), torch.ones(2), process_group=group)
            return 0.0
        whole = self.whole("dice, channel_axis")
        expected = whole.loss(whole.x, None, slice(1, 6))
        return off(whole.loss(whole.x, group, whole.part), expected)

    def a_mean_of_what_only_a_mean_can_hold(self) -> float:
        """The losses and their mean are finite; their sum is not."""
        x = torch.full((4,), -3e38, requires_grad=True)
        value = segact_torch.binary_cross_entropy(x, torch.ones(4), process_group="world")
        value.backward()
        assert off(value, torch.tensor(3e38)) < 1e-6
        wide = torch.full((4,), -1.7e308, dtype=torch.float64)
        widest = segact_torch.binary_cross_entropy(wide, torch.ones(4), process_group="world")
        assert off(widest, -wide[0]) < 1e-12
        assert off(average(x.grad), torch.full((4,), -0.25)) < 1e-6
        return 0.0

    def reductions_of_no_element(self) -> float:
        """A rank without elements takes part; if all are without, the loss is 0."""
        for loss in (*ELEMENTWISE, *OVERLAP):
            x = torch.zeros(0, 2, 3, requires_grad=True)
            function = getattr(functional, loss)
            value = function(x, torch.zeros(0, 2, 3), process_group="world")
            value.backward()
            assert value.item() == 0
            assert x.grad.shape == x.shape
            every = function(x, torch.zeros(0, 2, 3), process_group="world", reduction="none")
            assert every.shape == ((0, 2, 3) if loss in ELEMENTWISE else ())
        x, options = torch.zeros(0, 2, 3), {"reduction": "none", "process_group": "world"}
        of_samples = segact_torch.dice(x, x, per_sample=True, channel_axis=1, **options)
        assert of_samples.shape == (0, 2)
        x = torch.zeros(3, 0)
        assert segact_torch.jaccard(x, x, per_sample=True, **options).shape == (3,)
        return 0.0

    def half_precision(self) -> float:
        whole = self.whole("dice_cross_entropy, void")
        x = whole.x.bfloat16()
        expected = whole.loss(x.double())
        x.requires_grad_()
        value = whole.loss(x, "world", whole.part)
        value.backward()
        assert value.dtype == torch.float32
        assert x.grad.dtype == torch.bfloat16
        assert off(value, expected) < 1e-6
        return 0.0

    def what_is_moved(self) -> dict[str, list[int]]:
        """Bytes of each exchange of one step, forward and backward, of losses of two channels."""
        moved, real = [], dist.all_reduce

        def recorded(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            moved.append(tensor.numel() * tensor.element_size())
            return real(tensor, *args, **kwargs)

        found = {}
        names = ("dice", "dice, channel_axis", "dice, per_sample", "binary_cross_entropy")
        for name in (*names, "dice_cross_entropy", "binary_cross_entropy, linear"):
            whole = self.whole(name)
            x = whole.x.float().requires_grad_()
            dist.all_reduce = recorded
            try:
                whole.loss(x, "world", whole.part).backward()
            finally:
                dist.all_reduce = real
            found[name], moved = list(moved), moved[:0]
        return found


CHECKS = [name for name in vars(Checks) if name.startswith(("a_", "ranks_", "second", "forward"))]
CHECKS += [name for name in vars(Checks) if name.startswith(("the_", "gradient_", "dtensor"))]
CHECKS += ["reductions_of_no_element", "half_precision"]


def run(rank: int, world: int) -> dict[str, Any]:
    """All requested checks, by name; every rank runs them in the same order."""
    found: dict[str, Any] = {}

    def record(name: str, function: Any, *args: Any, **kwargs: Any) -> None:
        try:
            found[name] = function(*args, **kwargs)
        except Exception:  # the other ranks cannot continue without this one
            print(f"rank {rank} in {name!r}:", file=sys.stderr)
            raise

    for name in CASES:
        for split in SPLITS:
            record(f"{name}; {split}; torch.float64", errors, name, split, torch.float64)
        record(f"{name}; uneven; torch.float32", errors, name, "uneven", torch.float32)
    checks = Checks(rank, world)
    for name in CHECKS:
        record(name, getattr(checks, name))
    record("what is moved", checks.what_is_moved)
    if world > 1:
        for error, names in PLANTED.items():
            with planted(error):
                for name in names:
                    record(f"planted: {error}; {name}", errors, name, "uneven", torch.float64)
    if world == 2:
        for name, (split, dtype, compiler) in COMPILED.items():
            record(f"compiled: {name}", errors, name, split, dtype, 1.0, compiler)
        from scripts import local_and_global

        record("the table of docs/scaling.md", local_and_global.table)
    return found


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=world,
        timeout=timedelta(minutes=5),
    )
    (folder / f"{rank}.json").write_text(json.dumps(run(rank, world)))
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # at the end of Python, threads of gloo groups sometimes abort the process


if __name__ == "__main__":
    main()
