"""The state dict of a PyTorch module, read from a file for a Keras model, without the module.

A state dict has names and arrays, but no kinds: `weight` of two axes may be that of a Linear or of
an Embedding. So each entry is read as a layer of the kind of its partner in the Keras model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.common.arrays import Array
from parity.weights.compound import CELL, GATES, attention_arrays, cell_arrays
from parity.weights.layer import (
    ARRAYS,
    IN_PYTORCH,
    PYTORCH,
    Layer,
    WeightsError,
    first_sentence,
    in_common_layout,
)
from parity.weights.match import Pairs, leaf_name
from parity.weights.pairing import check_names, named
from parity.weights.parts import numbers

PICKLED = (".pth", ".pt", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_OF_A_LAYER = ("weight", "bias", "running_mean", "running_var")
_OF_ATTENTION = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
_ADVICE = (
    "wanted layers={name in the file: Keras name}, or the module itself: load_state_dict, then "
    "weights.copy"
)


@dataclass
class Entry:
    """The arrays of one module, or a parameter by itself, in a state dict, in PyTorch's layout."""

    name: str
    arrays: dict[str, Array]

    @property
    def described(self) -> str:
        """Its name with the shape of its first array."""
        key = next(iter(self.arrays))
        return f"{self.name} ({key} {self.arrays[key].shape})"


def entries_of(state: Mapping[str, Array]) -> list[Entry]:
    """The entries in the order of the file."""
    found: dict[str, Entry] = {}
    for key, array in state.items():
        owner, _, name = key.rpartition(".")
        if name == "num_batches_tracked":
            continue
        outer, _, inner = owner.rpartition(".")
        joint = f"{outer}." if outer else ""
        if inner == "out_proj" and f"{joint}in_proj_weight" in state:
            owner, name = outer, f"out_proj.{name}"
        cell, _, layer = name.rpartition("_l")
        if cell in CELL:
            owner, name = f"{owner}.l{layer}" if owner else f"l{layer}", cell
        elif name not in (*_OF_A_LAYER, *_OF_ATTENTION):
            owner = key
        found.setdefault(owner, Entry(owner or "model", {})).arrays[name] = array
    return list(found.values())


def read_pickled(path: Path) -> dict[str, Array]:
    """The state dict in a file of `torch.save`; code in the file is not run."""
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading a file of torch.save needs PyTorch, which is not installed; wanted "
            "PyTorch, or the state dict as safetensors"
        ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path}: not a state dict that can be read without running code "
            f"({first_sentence(error)}); wanted a file of torch.save(module.state_dict(), path)"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(each, torch.Tensor) for each in loaded.values()
    ):
        raise WeightsError(f"{path}: holds no state dict; wanted torch.save(module.state_dict())")
    found = {}
    for key, tensor in loaded.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
            kind = f"{tensor.dtype}, {tensor.layout}"
            raise WeightsError(f"{path}: {key} is {kind}; wanted real numbers in a dense tensor")
        if tensor.is_meta:
            raise WeightsError(f"{path}: {key} is on the meta device, without numbers")
        found[str(key).removeprefix("module.")] = numbers(tensor)
    return found


def pair_entries(
    entries: list[Entry], targets: list[Layer], layers: Mapping[str, str] | None, ordered: bool
) -> Pairs:
    """The entries, read as layers of their partners' kinds in a Keras model. Partners are found by
    the map; or in order; or, if the file has no order or it does not fit, by shape and name, if
    these leave no choice.

    Raises `WeightsError` if an entry has no partner, or could have several; if the order and the
    names disagree; if the map leaves out an entry, unless it is a tied one.
    """
    if layers is not None:
        by_name = {entry.name: entry for entry in entries}
        absent = [name for name in layers if name not in by_name]
        if absent:
            raise WeightsError(f"layers: the file has no {absent[0]!r}; it has {[*by_name]}")
        _check_left_out([entry for entry in entries if entry.name not in layers], entries)
        chosen = [by_name[name] for name in layers]
        partners = named(targets, [*layers.values()])
        return [_like_or_misfit(*both) for both in zip(chosen, partners, strict=True)]
    if len(entries) != len(targets):
        entries = _untied(entries)
    if len(entries) != len(targets):
        raise WeightsError(
            f"{len(entries)} layers with weights in the file, {len(targets)} in the model; "
            f"{_ADVICE}"
        )
    in_order = [_like(entry, target) for entry, target in zip(entries, targets, strict=True)]
    if ordered and all(one is not None for one in in_order):
        found = [(one, other) for one, other in zip(in_order, targets, strict=True) if one]
        check_names([one for one, _ in found], targets, found)
    else:
        found = _by_shape(entries, targets)
    return found


def _check_left_out(left: list[Entry], entries: list[Entry]) -> None:
    """Raises `WeightsError` for an entry that no other one equals: weights that are tied are in the
    file under both names."""
    for entry in left:
        others = (one for one in entries if not any(one is each for each in left))
        if not any(_equal(entry, one) for one in others):
            raise WeightsError(
                f"layers leaves out {entry.described} of the file; wanted all of its layers"
            )


def _untied(entries: list[Entry]) -> list[Entry]:
    """The entries without those that only have the matrix of an entry before them."""
    found: list[Entry] = []
    for entry in entries:
        matrix = len(entry.arrays) == 1 and next(iter(entry.arrays.values())).ndim > 1
        if not (matrix and any(_equal(entry, one) for one in found)):
            found.append(entry)
    return found


def _equal(one: Entry, other: Entry) -> bool:
    """Whether all arrays of an entry are those of another one."""
    return all(
        key in other.arrays and np.array_equal(array, other.arrays[key])
        for key, array in one.arrays.items()
    )


def _by_shape(entries: list[Entry], targets: list[Layer]) -> Pairs:
    """Each target with the only entry that fits it, or, of several, the one that has its name."""
    found: Pairs = []
    taken: set[int] = set()
    for target in targets:
        fits = [(entry, _like(entry, target)) for entry in entries]
        several = [(entry, layer) for entry, layer in fits if layer is not None]
        named_so = [
            (entry, layer) for entry, layer in several if leaf_name(layer) == leaf_name(target)
        ]
        choice = several if len(several) == 1 else named_so
        if len(choice) != 1 or id(choice[0][0]) in taken:
            names = ", ".join(entry.described for entry, _ in several[:4]) or "nothing"
            raise WeightsError(f"for {target.label} the file has {names}; {_ADVICE}")
        taken.add(id(choice[0][0]))
        found.append((choice[0][1], target))
    return found


def _like_or_misfit(entry: Entry, target: Layer) -> tuple[Layer, Layer]:
    layer = _like(entry, target)
    if layer is None:
        raise WeightsError(f"{entry.described} does not fit {target.described(target.first)}")
    return layer, target


def _like(entry: Entry, target: Layer) -> Layer | None:
    """An entry as a layer of its partner's kind, or None if its arrays do not fit that kind."""
    own = entry.arrays
    if target.kind in ("lstm", "gru", "simple_rnn"):
        fits = "weight_ih" in own and len(own["weight_ih"]) % GATES[target.kind] == 0
        arrays = cell_arrays(own, target.kind) if fits else {}
    elif target.kind == "attention":
        heads, size = target.arrays["query_kernel"].shape[1:]
        fits = "in_proj_weight" in own and len(own["in_proj_weight"]) == 3 * heads * size
        arrays = attention_arrays(own, heads) if fits else {}
    elif target.kind == "parameter":
        arrays = {"value": next(iter(own.values())).squeeze()} if len(own) == 1 else {}
    else:
        names = [name for name in ARRAYS[target.kind] if IN_PYTORCH.get(name) in own]
        arrays = {name: own[IN_PYTORCH[name]] for name in names}
        arrays = _turned(arrays, target) if len(arrays) == len(own) else {}
    first = target.first
    if first not in arrays or arrays[first].shape != target.arrays[first].shape:
        return None
    return Layer(
        framework=PYTORCH,
        name=entry.name,
        class_name="state dict",
        kind=target.kind,
        arrays=arrays,
        settings=target.settings,  # a state dict has none
    )


def _turned(arrays: dict[str, Array], target: Layer) -> dict[str, Array]:
    kernel = arrays.get("kernel")
    if kernel is None or kernel.ndim < 2:
        return arrays
    kernel = in_common_layout(kernel)
    pixel = set(kernel.shape[:-2]) <= {1}
    if pixel and kernel.shape[-2:] == target.arrays["kernel"].shape[-2:]:
        kernel = kernel.reshape(target.arrays["kernel"].shape)
    return {**arrays, "kernel": np.ascontiguousarray(kernel)}
