"""Weights that a PyTorch module computes from others whenever it is called: by weight norm or
spectral norm, another parametrization, or pruning.

They are read as the module computes them in eval mode, and cannot be written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def computed(module: Any) -> dict[str, set[str]]:
    """The names of the weights that a module computes, each with the names of the parameters from
    which it computes them."""
    found: dict[str, set[str]] = {name: set() for name in getattr(module, "parametrizations", ())}
    for hook in module._forward_pre_hooks.values():
        name = _name_of(hook)
        if name:
            found[name] = {f"{name}_{end}" for end in ("g", "v", "orig")}
    return found


@contextmanager
def as_in_eval(model: Any) -> Iterator[None]:
    """A context in which modules compute their weights as in eval mode, where a spectral norm does
    not update its vectors. Afterwards the modes are as before."""
    import torch
    from torch.nn.utils import parametrize

    lists = [one for one in model.modules() if isinstance(one, parametrize.ParametrizationList)]
    hooks = [
        (module, hook, _name_of(hook))
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
        if _name_of(hook)
    ]
    before = [(one, "training", one.training) for each in lists for one in each.modules()]
    before += [(module, name, getattr(module, name)) for module, _, name in hooks]
    try:
        for each in lists:
            each.eval()
        with torch.no_grad():
            for module, hook, name in hooks:
                setattr(module, name, _value(hook, module))
            yield
    finally:
        for one, name, value in before:
            setattr(one, name, value)


def _name_of(hook: Any) -> str:
    """The name of the weight that a hook of `torch.nn.utils` computes, or ""."""
    if not type(hook).__module__.startswith("torch.nn.utils."):
        return ""
    return str(getattr(hook, "_tensor_name", "") or getattr(hook, "name", ""))


def _value(hook: Any, module: Any) -> Any:
    if hasattr(hook, "apply_mask"):  # pruning
        return hook.apply_mask(module)
    if type(hook).__name__ == "SpectralNorm":
        return hook.compute_weight(module, do_power_iteration=False)
    return hook.compute_weight(module)
