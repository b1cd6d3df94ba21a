"""The weights in a file of Keras's `save_weights`, read for a PyTorch module, without Keras.

Such a file (`.weights.h5`, HDF5) has a group for each layer, with the layer's name and its arrays
in the order in which they were created. Groups of layers of a Functional or Sequential model, or
of a list, are named by class and number, `layers/conv2d_1`, which gives an order within a class,
but not between classes. Groups of layers that are attributes have the names of these, and no order.
There are no settings and no calls. So an entry is read as a layer of the kind of its partner in the
module, like the entries of a state dict (`parity.weights.state_dict`).
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.layer import WeightsError

MODEL = "the Keras model itself: load_weights, then weights.copy"
_ATTENTION = {f"{name}_dense": name for name in ("query", "key", "value", "output")}
_LISTS = ("layers", "_layer_checkpoint_dependencies")
"""The names of the group of a model's layers; the second is that of Keras 2.12 to 2.15."""


@dataclass
class Group:
    """A group of the file: the name and arrays of a layer, and the groups inside.

    `holds`: it is a list of layers, such as those of a model, and has no name.
    """

    name: str = ""
    arrays: list[Array] = field(default_factory=list)
    inside: dict[str, "Group"] = field(default_factory=dict)
    holds: bool = False


@dataclass
class FileEntry:
    """A layer with weights in the file.

    `place`: the groups that contain it: class and number in a list of layers, or an attribute and
    0. `class_name`: as the file spells it, or "". `arrays`: by number; those of attention by their
    names in `parity.weights.layer.ARRAYS`.
    """

    name: str
    place: tuple[tuple[str, int], ...]
    class_name: str
    arrays: dict[str, Array]

    @property
    def described(self) -> str:
        """Its name with the shape of its first array."""
        return f"{self.name} {next(iter(self.arrays.values())).shape}"

    def precedes(self, other: "FileEntry") -> bool:
        """Whether the file says that this entry comes before another."""
        for (mine, number), (theirs, another) in zip(self.place, other.place, strict=False):
            if (mine, number) != (theirs, another):
                return mine == theirs and number < another
        return False


def read_keras_file(path: Path) -> list[FileEntry]:
    """The layers with weights of a file of `save_weights`, or of the one in a `.keras` file.

    Without the arrays of optimizers, random seeds and Normalizations.

    Raises `WeightsError` for another file or a damaged one, and if h5py is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading a .weights.h5 file needs h5py, which is not installed; wanted h5py"
        ) from error
    try:
        with ExitStack() as stack:
            source: Any = path
            if path.suffix == ".keras":  # a zip file that contains the weights under this name
                archive = stack.enter_context(zipfile.ZipFile(path))
                source = stack.enter_context(archive.open("model.weights.h5"))
            file = stack.enter_context(h5py.File(source, "r"))
            if "layer_names" in file.attrs or "model_weights" in file:
                raise WeightsError(
                    f"{path}: in the format of Keras 2, in which Keras 3 also saves models as .h5; "
                    f"wanted {MODEL}"
                )
            named = _is_own(file, "vars") and "name" in file["vars"].attrs
            whole = _group(file, named, set())
    except WeightsError:
        raise
    except Exception as error:  # h5py raises several exceptions, with messages of the HDF5 library
        why = " ".join(str(error).split())
        raise WeightsError(f"{path}: truncated or not a file of save_weights ({why})") from error
    found = list(_entries(whole, (), "", ""))
    if not found:
        raise WeightsError(f"{path}: holds no weights of Keras; wanted a file of save_weights")
    return found


# HDF5


def _group(group: Any, named: bool, seen: set[int]) -> Group:
    """A group of the file and the groups inside; links are not followed.

    `named`: every layer has its name in the file, which older versions of Keras 3 leave out.
    """
    import h5py

    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        raise ValueError(f"{group.name} is in it twice")
    seen.add(address)
    key = group.name.rpartition("/")[2]
    holds = "vars" not in group
    found = Group("" if key in _LISTS or (named and holds) else key, holds=holds)
    for key in group:
        if not _is_own(group, key):
            raise ValueError(f"{group.name}/{key} is a link")
        if key == "vars":
            own = group[key]
            found.name = str(own.attrs.get("name", found.name))
            found.arrays = [_array(own, str(number)) for number in range(len(own))]
        elif group.name != "/" or key != "optimizer":
            if not isinstance(group[key], h5py.Group):
                raise ValueError(f"{group.name}/{key} is no group")
            found.inside[key] = _group(group[key], named, seen)
    return found


def _is_own(group: Any, key: str) -> bool:
    """Whether a group itself contains a name, not by a link to elsewhere."""
    import h5py

    return isinstance(group.get(key, getlink=True), h5py.HardLink)


def _array(group: Any, key: str) -> Array:
    """An array as Keras writes it: whole, in the file itself."""
    if not _is_own(group, key):
        raise ValueError(f"{group.name}/{key} is a link, or not there")
    dataset = group[key]
    if dataset.external:
        raise ValueError(f"{dataset.name} is in another file")
    if dataset.is_virtual or dataset.id.get_storage_size() < dataset.nbytes:
        raise ValueError(f"{dataset.name} is not there as a whole")
    if dataset.attrs.get("dtype") == "bfloat16":
        bits = dataset[()].view(np.uint16).astype(np.uint32) << 16
        return np.asarray(bits.view(np.float32))
    if dataset.dtype.kind not in "fiub":
        raise ValueError(f"{dataset.name} is of {dataset.dtype}")
    return np.asarray(dataset[()])


# Layers


def _entries(
    group: Group, place: tuple[tuple[str, int], ...], name: str, class_name: str
) -> Iterator[FileEntry]:
    """The layers with weights in a group; one of several parts is known by the groups inside."""

    def entry(arrays: Any, part: str = "", number: int = 0) -> FileEntry:
        numbered = arrays if isinstance(arrays, dict) else dict(enumerate(arrays))
        own = name or group.name or "model"
        return FileEntry(
            f"{own}/{part}" if part else own,
            (*place, ("part", number)) if part else place,
            class_name,
            {str(key): array for key, array in numbered.items()},
        )

    inside = group.inside
    if {*_ATTENTION} <= {*inside}:
        yield entry(_attention(inside))
    elif {"forward_layer", "backward_layer"} <= {*inside}:
        for number, part in enumerate(("forward", "backward")):
            cell = inside[f"{part}_layer"].inside.get("cell", Group())
            yield entry(cell.arrays, part, number)
    elif "cell" in inside and inside["cell"].arrays:
        yield entry(inside["cell"].arrays)
    else:
        if _is_separable(group.arrays):
            yield entry(group.arrays[:1], "depthwise", 0)
            yield entry(group.arrays[1:], "pointwise", 1)
        elif group.arrays and not _is_state(group.arrays, class_name):
            yield entry(group.arrays)
        for key, one in sorted(inside.items(), key=lambda each: _class_and_number(each[0])):
            listed = group.holds and place
            step = _class_and_number(key) if listed else ("layers" if key in _LISTS else key, 0)
            joined = "/".join(part for part in (name, one.name) if part)
            yield from _entries(one, (*place, step), joined, step[0] if listed else "")


def _class_and_number(key: str) -> tuple[str, int]:
    """`conv2d_1` as `conv2d` and 1; the first of a class has no number."""
    name, number = re.fullmatch(r"(.+?)(?:_(\d+))?", key, re.DOTALL).groups()  # type: ignore[union-attr]
    return name, int(number or 0)


def _attention(inside: dict[str, Group]) -> dict[str, Array]:
    return {
        f"{name}_{array}": value
        for key, name in _ATTENTION.items()
        for array, value in zip(("kernel", "bias"), inside[key].arrays, strict=False)
    }


def _is_state(arrays: list[Array], class_name: str) -> bool:
    """Whether these are no weights, but the arrays of a Normalization, of a random seed (integers),
    or of a SpectralNormalization."""
    whole = any(array.dtype.kind != "f" for array in arrays)
    return whole or class_name == "spectral_normalization"


def _is_separable(arrays: list[Array]) -> bool:
    """Whether these are a depthwise kernel, a pointwise kernel and perhaps a bias."""
    if len(arrays) not in (2, 3) or arrays[0].ndim < 3 or arrays[0].ndim != arrays[1].ndim:
        return False
    depth, point = arrays[0].shape, arrays[1].shape
    return set(point[:-2]) == {1} and point[-2] == depth[-2] * depth[-1]
