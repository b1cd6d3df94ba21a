"""The backends that work here: compiled loops on a CPU, Triton's kernels on a GPU.

The environment variable `SEGACT_KERNELS`, read at import, switches both off (0), or also runs the
kernels on CPU tensors, in Triton's interpreter (triton).
"""

import functools
import importlib.util
import os
import warnings
from typing import Any

import torch

from segact_torch._backends import cpu
from segact_torch._batch import level_of_caller

KERNELS = os.environ.get("SEGACT_KERNELS", "")


def uses_loops(device: str) -> bool:
    """Whether losses on this device are for the loops, if there are any."""
    return device == "cpu" and KERNELS not in ("0", "triton")


def uses_kernels(device: str) -> bool:
    """Whether losses on this device are for the kernels, if they run here."""
    return (device == "cuda" and KERNELS != "0") or (device == "cpu" and KERNELS == "triton")


def backends() -> dict[str, str]:
    """The backends of the losses: for each "yes" if it works here, else "no: " and the reason.

    "cpu" stands for the compiled loops, "triton" for the kernels on a GPU; two kernels are run as
    a test. Without them PyTorch's own operations compute the losses: within the same bounds, but
    slower. `python -m segact_torch` prints this.

    >>> list(backends())
    ['cpu', 'triton']
    """
    reasons = {"cpu": _why_no_loops(), "triton": _why_no_triton()}
    return {name: f"no: {why}" if why else "yes" for name, why in reasons.items()}


def _why_no_loops() -> str:
    if KERNELS in ("0", "triton"):
        return f"SEGACT_KERNELS={KERNELS} is in the environment"
    return cpu.WHY_NOT


def _why_no_triton() -> str:
    if KERNELS == "0":
        return "SEGACT_KERNELS=0 is in the environment"
    if KERNELS != "triton" and not torch.cuda.is_available():
        return "torch sees no GPU"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return found_triton()[1]


@functools.cache
def loaded_triton() -> Any:
    """The module of the GPU backend, if its kernels run here; else None, after a warning."""
    module, why_not = found_triton()
    if module is None:
        warnings.warn(
            f"the losses run without Triton's kernels, slower: {why_not}; "
            "SEGACT_KERNELS=0 in the environment says that this is wanted",
            RuntimeWarning,
            stacklevel=level_of_caller(),
        )
    return module


@functools.cache
def found_triton() -> tuple[Any, str]:
    """The module and "", or None and the reason."""
    try:
        module = importlib.import_module("segact_torch._backends.triton")
        module.probe()
    except Exception as error:
        return None, repr(error)
    return module, ""


def has_triton() -> bool:
    """Whether the GPU backend works; under `torch.compile` the result is a constant."""
    return loaded_triton() is not None


has_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]
