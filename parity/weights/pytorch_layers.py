"""The layers of a PyTorch module in the common form (`parity.weights.layer`)."""

from dataclasses import replace
from typing import Any

import numpy as np

from parity.common.arrays import Array
from parity.weights.compound import compound_module, parameters_of, parts_of_module
from parity.weights.computed import as_in_eval, computed
from parity.weights.forward import may_pad
from parity.weights.layer import (
    ARRAYS,
    IN_PYTORCH,
    PYTORCH,
    Layer,
    WeightsError,
    in_common_layout,
    other_kind,
    plain,
)
from parity.weights.parts import layers_of, loose_parts, numbers, registered_kind


def kind_of_module(module: Any) -> str:
    """The kind of a PyTorch module, or ""."""
    from torch import nn

    kinds: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("dense", (nn.Linear,)),
        ("conv", (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
        ("conv_transpose", (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
        (
            "batch_normalization",
            (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
        ),
        ("layer_normalization", (nn.LayerNorm,)),
        ("embedding", (nn.Embedding,)),
        (
            "group_normalization",
            (nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        ),
        ("rms_normalization", (nn.RMSNorm,)),
        ("prelu", (nn.PReLU,)),
    )
    if registered_kind(module):
        return ""
    if type(module).__name__ in _FROZEN:
        return "batch_normalization"
    return next((kind for kind, classes in kinds if isinstance(module, classes)), "")


_FROZEN = ("FrozenBatchNorm2d", "FrozenBatchNormAct2d")


def known_module(module: Any) -> str:
    """The kind of a module, also of one of several parts (`parity.weights.compound`), or ""."""
    return kind_of_module(module) or compound_module(module)


def _known_modules(module: Any) -> list[tuple[str, Any]]:
    """The modules in order, without those inside a module of a known kind."""
    found: list[tuple[str, Any]] = []
    inside: set[int] = set()
    for name, one in module.named_modules():
        if id(one) in inside:
            continue
        if known_module(one):
            inside |= {id(child) for child in one.modules()}
        found.append((name or "model", one))
    return found


def leaf_modules(module: Any) -> list[tuple[str, Any]]:
    """The modules of a known kind and those without modules of their own, in order."""
    modules = _known_modules(module)
    return [(name, one) for name, one in modules if known_module(one) or not any(one.children())]


def read_pytorch(model: Any, unknown: list[str] | None = None) -> list[Layer]:
    """The layers with weights of a PyTorch module; see `parity.weights.read.read`."""
    with as_in_eval(model):
        return _all_layers(model, unknown)


def _all_layers(model: Any, unknown: list[str] | None) -> list[Layer]:
    leaves = [one for _, one in leaf_modules(model)]
    found: list[Layer] = []
    inside: set[int] = set()  # inside unknown modules of PyTorch
    for name, one in _known_modules(model):
        if id(one) in inside:
            continue
        try:
            found += _read(name, one, model, leaves)
        except WeightsError:
            if unknown is None:
                raise
            unknown.append(f"{PYTORCH} {name} ({type(one).__name__})")
            if type(one).__module__.startswith("torch.nn"):
                inside |= {id(child) for child in one.modules()}
    return found


def _read(name: str, module: Any, model: Any, leaves: list[Any]) -> list[Layer]:
    """A module in the common form, or its parts; none if it has no weights of its own."""
    from torch.nn.modules.lazy import LazyModuleMixin

    lazy: Any = module if isinstance(module, LazyModuleMixin) else None
    if lazy is not None and lazy.has_uninitialized_params():
        raise WeightsError(
            f"PyTorch {name} ({type(module).__name__}) has no shapes yet; "
            "call the model on data once"
        )
    if any(one.is_meta for one in module.parameters(recurse=False)):
        raise WeightsError(
            f"PyTorch {name} ({type(module).__name__}) is on the meta device, without numbers; "
            "wanted model.to_empty(device='cpu') before"
        )
    kind = kind_of_module(module)
    made = computed(module)
    if compound_module(module):
        strange = _unread(module, [*parameters_of(module), *_names_of(made)])
        if strange:
            raise other_kind(PYTORCH, name, module, strange)
        several = layers_of(PYTORCH, name, module, parts_of_module(module))
        return [replace(one, computed=tuple(made)) for one in several]
    own = [key for key, _ in module.named_parameters(recurse=False)]
    own += [key for key, _ in module.named_buffers(recurse=False) if key.startswith("running_")]
    if not kind:
        loose = loose_parameters(module)
        parts = loose_parts(loose)
        if own and (parts is None or not loose):
            raise other_kind(PYTORCH, name, module, own)
        return list(layers_of(PYTORCH, name, module, parts or []))
    strange = _unread(module, [*(IN_PYTORCH[array] for array in ARRAYS[kind]), *_names_of(made)])
    absent = getattr(module, "weight", None) is not None and "weight" not in {*own, *made}
    if strange or (absent and type(module).__name__ not in _FROZEN):
        raise other_kind(PYTORCH, name, module, strange or ["a weight that is computed"])
    place = next(i for i, one in enumerate(leaves) if one is module)
    around = [leaves[i] if 0 <= i < len(leaves) else None for i in (place - 1, place + 1)]
    settings = _settings_of_module(module, kind, *around)
    if kind in ("conv", "conv_transpose") and may_pad(module, _owners(model, name), kind):
        settings["may_pad"] = True
    return [
        Layer(
            framework=PYTORCH,
            name=name,
            class_name=type(module).__name__,
            kind=kind,
            arrays=_arrays_of_module(module, kind),
            settings=plain(settings),
            handle=module,
            computed=tuple(made),
        )
    ]


def _unread(module: Any, known: list[str]) -> list[str]:
    """The parameters and running statistics of a module of a known kind, and of the modules inside,
    that are none of the known ones: those that a derived class adds, such as a norm of its own."""
    held = [key for key, _ in module.named_parameters()]
    buffers = [key for key, _ in module.named_buffers()]
    held += [key for key in buffers if key.rpartition(".")[2].startswith("running_")]
    return [key for key in held if key not in known and "parametrizations" not in key.split(".")]


def _names_of(made: dict[str, set[str]]) -> list[str]:
    """The names of the parameters from which weights are computed."""
    return [key for keys in made.values() for key in keys]


def _owners(model: Any, name: str) -> list[Any]:
    """The modules that contain a module."""
    parts = name.split(".")
    return [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]


def loose_parameters(module: Any) -> dict[str, Any]:
    """The parameters that a user's own module holds itself."""
    if known_module(module) or type(module).__module__.startswith("torch.nn"):
        return {}
    return dict(module.named_parameters(recurse=False))


def _arrays_of_module(module: Any, kind: str) -> dict[str, Array]:
    arrays = {}
    for array in ARRAYS[kind]:
        value = numbers(getattr(module, IN_PYTORCH[array]))
        if value is not None:
            arrays[array] = in_common_layout(value) if array == "kernel" else value
    return arrays


def _settings_of_module(module: Any, kind: str, before: Any, behind: Any) -> dict[str, Any]:
    if kind == "batch_normalization" and not hasattr(module, "momentum"):
        return {"epsilon": module.eps, "momentum": None, "frozen": True}
    if kind == "rms_normalization":
        double = str(getattr(module.weight, "dtype", "")) == "torch.float64"
        usual = np.finfo(np.float64 if double else np.float32).eps  # float16: of float32
        return {"epsilon": float(usual) if module.eps is None else module.eps}
    if kind == "group_normalization":
        groups = getattr(module, "num_groups", None) or module.num_features
        return {"epsilon": module.eps, "groups": groups}
    if kind == "prelu":
        return {}
    if kind == "batch_normalization":
        kept = None if module.momentum is None else 1 - module.momentum
        return {"epsilon": module.eps, "momentum": kept}
    if kind == "layer_normalization":
        return {"epsilon": module.eps}
    if kind == "embedding":
        return {"max_norm": module.max_norm}
    if kind not in ("conv", "conv_transpose"):
        return {}
    settings = {
        "kernel_size": module.kernel_size,
        "strides": module.stride,
        "dilation": module.dilation,
        "groups": module.groups,
        "padding_mode": module.padding_mode,
        "size": [None] * len(module.kernel_size),
    }
    rank = len(module.kernel_size)
    if kind == "conv":
        own = module.padding
        own = {"valid": [(0, 0)] * rank, "same": "same"}[own] if isinstance(own, str) else own
        padding = own if own == "same" or isinstance(own, list) else [(p, p) for p in own]
        if padding == [(0, 0)] * rank:
            settings["padding_mode"] = "zeros"  # it pads nothing
        mode = _other_pad(before, rank)
        if mode:
            settings |= {"padding_mode": mode, "padded_by": type(before).__name__}
        return {**settings, "padding": padding, "added": _zero_pad(before, rank)}
    cut = [(-left, -right) for left, right in _zero_pad(behind, rank)]
    axes = zip(module.padding, module.output_padding, cut, strict=True)
    crop = [(p + left, p - more + right) for p, more, (left, right) in axes]
    return {**settings, "crop": crop, "added": cut}


def _zero_pad(module: Any, rank: int) -> list[tuple[int, int]]:
    """The padding of an `nn.ZeroPad` (or of a constant padding with zeros), by axis."""
    from torch import nn

    classes = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
    if isinstance(module, classes) and module.value == 0 and len(module.padding) == 2 * rank:
        pairs = list(zip(module.padding[::2], module.padding[1::2], strict=True))
        return pairs[::-1]
    return [(0, 0)] * rank


_MODES = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}


def _other_pad(module: Any, rank: int) -> str:
    """The mode of a padding layer that does not pad with zeros, or ""."""
    if module is None or not any(np.ravel(getattr(module, "padding", 0))):
        return ""
    name = type(module).__name__
    if name == f"ConstantPad{rank}d" and module.value != 0:
        return f"constant {module.value:g}"
    return next((mode for start, mode in _MODES.items() if name == f"{start}Pad{rank}d"), "")
