"""The losses of `segact_torch.functional` as modules, with their options in the constructor.

`functional` explains the options; weight and mask, which differ by batch, are passed in the call:

>>> import torch
>>> loss = DiceLoss("arctan", smooth=1.0)
>>> input, target = torch.tensor([[8.0, -8.0]]), torch.tensor([[1.0, 0.0]])
>>> loss(input, target, mask=torch.tensor([[1, 0]]))
tensor(0.0134)

With `smooth=0`, the default, a group without any target, such as an empty mask with
`per_sample=True`, has an overlap loss of 1 for any output, and no gradient: the network does not
learn to predict an empty mask. It does with `smooth=1.0`, or with Dice + cross entropy.

On several devices `process_group="world"` gives the loss of the whole batch. The group is looked up
when the loss is called, so the loss can be made, pickled and saved before there is a group. A loss
that was given a group object can be copied within the process, but not pickled.

The functions can be imported from here, too.
"""

import contextlib
import copy
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segact_torch import functional
from segact_torch._batch import warn_of_probabilities
from segact_torch._checks import (
    check_groups,
    check_ignore_index,
    check_lovasz_groups,
    check_number,
    check_pos_weight,
    check_reduction,
    check_tensor,
    check_validate,
)
from segact_torch._distributed import ProcessGroup, check_group
from segact_torch.activations import Activation, sigmoid
from segact_torch.conventions import distribution
from segact_torch.functional import (
    binary_cross_entropy,
    binary_focal_cross_entropy,
    dice,
    dice_cross_entropy,
    focal_tversky,
    jaccard,
    lovasz,
    lovasz_hinge,
    mean_squared_error,
    tversky,
)

__all__ = [
    "BinaryCrossEntropyLoss",
    "BinaryFocalCrossEntropyLoss",
    "DiceCrossEntropyLoss",
    "DiceLoss",
    "FocalTverskyLoss",
    "JaccardLoss",
    "LovaszHingeLoss",
    "LovaszLoss",
    "MeanSquaredErrorLoss",
    "TverskyLoss",
    "binary_cross_entropy",
    "binary_focal_cross_entropy",
    "dice",
    "dice_cross_entropy",
    "focal_tversky",
    "jaccard",
    "lovasz",
    "lovasz_hinge",
    "mean_squared_error",
    "tversky",
]

# The options that must be >= 0 if they are numbers, and the largest allowed value of each.
NUMBERS = {
    **dict.fromkeys(("alpha", "beta", "gamma", "smooth", "pos_weight"), math.inf),
    **dict.fromkeys(("lambda_dice", "lambda_ce"), math.inf),
    "label_smoothing": 1.0,
}


class _Loss(nn.Module):
    """A function of `segact_torch.functional` with all options but the tensors of a batch."""

    function: ClassVar[Callable[..., Tensor]]
    _input_checked = False  # whether raw outputs were checked

    def __init__(self, **options: Any) -> None:
        super().__init__()
        check_reduction(options["reduction"])
        check_ignore_index(options["ignore_index"])
        check_validate(options["validate"])
        check_group(options["process_group"])
        if "per_sample" in options:
            check_groups(options["per_sample"], options["channel_axis"])
        if "activation" in options:
            names = {"activation", "from_logits", "convention"} & options.keys()
            f = distribution(**{name: options[name] for name in names})
            if isinstance(f, Activation):
                options["activation"] = f
        pos_weight = options.get("pos_weight")
        if not (pos_weight is None or isinstance(pos_weight, numbers.Real)):
            check_tensor(pos_weight, "pos_weight", "a number or a torch.Tensor")
        parameters = inspect.signature(self.function).parameters
        for name in NUMBERS.keys() & options.keys():
            left_out = options[name] is None and parameters[name].default is None
            if not left_out and not isinstance(options[name], Tensor):
                check_number(name, options[name], NUMBERS[name])
        if isinstance(pos_weight, Tensor):
            pos_weight = options.pop("pos_weight").detach()
            with contextlib.suppress(RuntimeError):  # values that cannot be read, as on "meta"
                check_pos_weight(pos_weight)
            self.register_buffer("pos_weight", pos_weight)
        self.options = options

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Options that are missing in a pickle of an older version get their defaults."""
        super().__setstate__(state)
        given = {"input", "target", "weight", "mask", *self._buffers}  # not options
        parameters = inspect.signature(self.function).parameters
        defaults = {name: p.default for name, p in parameters.items() if name not in given}
        self.options = {**defaults, **self.options}

    def __getstate__(self) -> dict[str, Any]:
        group = self.options["process_group"]
        if isinstance(group, ProcessGroup):
            raise TypeError(
                "process_group belongs to this process and is not pickled, got a loss with "
                f"{group!r}; process_group='world' is, and so is None"
            )
        return self.__dict__

    def __copy__(self) -> "_Loss":
        """A shallow copy in this process, with the same process group."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Loss":
        """A copy in this process, with the same process group."""
        group = self.options["process_group"]
        memo[id(group)] = group
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch, with its `weight` and `mask`."""
        if not torch.compiler.is_compiling() and not self._input_checked:
            f = self.options.get("activation", sigmoid)
            self._input_checked = f is None or warn_of_probabilities(input, f)
        tensors = {"weight": weight, "mask": mask, "pos_weight": self._buffers.get("pos_weight")}
        given = {name: value for name, value in tensors.items() if value is not None}
        return self.function(input, target, **given, **self.options)

    def extra_repr(self) -> str:
        pos_weight = self._buffers.get("pos_weight")
        shown = {} if pos_weight is None else {"pos_weight": pos_weight}
        return ", ".join(f"{k}={v!r}" for k, v in {**self.options, **shown}.items())


class BinaryCrossEntropyLoss(_Loss):
    """`binary_cross_entropy` as a module: options here, `(input, target)` in the call.

    Weight and mask are passed in the call, too; see `segact_torch.functional`.

    >>> BinaryCrossEntropyLoss("normal_cdf")(torch.tensor([-100.0]), torch.tensor([1.0]))
    tensor(5005.5244)
    """

    function = staticmethod(functional.binary_cross_entropy)

    def __init__(
        self,
        activation: str | Activation | None = None,
        *,
        from_logits: bool = True,
        convention: str | None = None,
        pos_weight: float | Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        process_group: ProcessGroup | str | None = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            convention=convention,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            process_group=process_group,
        )


class BinaryFocalCrossEntropyLoss(_Loss):
    """`binary_focal_cross_entropy` as a module: options here, `(input, target)` in the call.

    Weight and mask are passed in the call, too; see `segact_torch.functional`.

    >>> BinaryFocalCrossEntropyLoss(gamma=2.0)(torch.tensor([-4.0]), torch.tensor([1.0]))
    tensor(3.8749)
    """

    function = staticmethod(functional.binary_focal_cross_entropy)

    def __init__(
        self,
        activation: str | Activation | None = None,
        *,
        from_logits: bool = True,
        convention: str | None = None,
        gamma: float = 2.0,
        alpha: float | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        process_group: ProcessGroup | str | None = None,
    ) -> None:
        if alpha is not None:
            check_number("alpha", alpha, high=1.0)
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            convention=convention,
            gamma=gamma,
            alpha=alpha,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            process_group=process_group,
        )


class MeanSquaredErrorLoss(_Loss):
    """`mean_squared_error` as a module: options here, `(input, target)` in the call.

    Weight and mask are passed in the call, too; see `segact_torch.functional`.

    >>> MeanSquaredErrorLoss("softsign")(torch.tensor([3.0]), torch.tensor([0.0]))
    tensor(0.7656)
    """

    function = staticmethod(functional.mean_squared_error)

    def __init__(
        self,
        activation: str | Activation | None = None,
        *,
        from_logits: bool = True,
        ignore_index: int | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        process_group: ProcessGroup | str | None = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            process_group=process_group,
        )


class DiceLoss(_Loss):
    """`dice` as a module: options here, `(input, target)` in the call.

    Weight and mask are passed in the call, too; see `segact_torch.functional`.

    With `smooth=0` a sample with an empty mask (`per_sample=True`) has a loss of 1 and no gradient:
    use `smooth=1.0`.

    >>> DiceLoss("arctan")(torch.tensor([[8.0, -8.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.0396)
    """

    function = staticmethod(functional.dice)

    def __init__(
        self,
        activation: str | Activation | None = None,
        *,
        from_logits: bool = True,
        smooth: float = 0.0,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        process_group: ProcessGroup | str | None = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            smooth=smooth,
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            process_group=process_group,
        )


class JaccardLoss(_Loss):
    """`jaccard` as a module: options here, `(input, target)` in the call.

    Weight and mask are passed in the call, too; see `segact_torch.functional`.

    With `smooth=0` a sample with an empty mask (`per_sample=True`) has a loss of 1 and no gradient:
    use `smooth=1.0`.

    >>> JaccardLoss("arctan")(torch.tensor([[8.0, -8.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.0762)
    """

    function = staticmethod(functional.jaccard)

    def __init__(
        self,
        activation: str | Activation | None = None,
        *,
        from_logits: bool = True,
        smooth: float = 0.0,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        process_group: ProcessGroup | str | None = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            smooth=smooth,
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            process_group=process_group,
        )


class TverskyLoss(_Loss):
    """`tversky` as a module: options here, `(input, target)` in the call.

    Weight and mask are passed in the call, too; see `segact_torch.functional`.

    With `smooth=0` a sample with an empty mask (`per_sample=True`) has a loss of 1 and no gradient:
    use `smooth=1.0`.

    >>> loss = TverskyLoss(alpha=0.3, beta=0.7)
    >>> loss(torch.tensor([[2.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.1192)
    """

    function = staticmethod(functional.tversky)

    def __init__(
        self,
        activation: str | Activation | None = None,
        *,
        from_logits: bool = True,
        alpha: float = 0.5,
        beta: float = 0.5,
        smooth: float = 0.0,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        process_group: ProcessGroup | str | None = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            alpha=alpha,
            beta=beta,
            smooth=smooth,
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            process_group=process_group,
        )


class FocalTverskyLoss(_Loss):
    """`focal_tversky` as a module: options here, `(input, target)` in the call.

    Weight and mask are passed in the call, too; see `segact_torch.functional`.

    With `smooth=0` a sample with an empty mask (`per_sample=True`) has a loss of 1 and no gradient:
    use `smooth=1.0`.

    >>> FocalTverskyLoss()(torch.tensor([[2.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.2029)
    """

    function = staticmethod(functional.focal_tversky)

    def __init__(
        self,
        activation: str | Activation | None = None,
        *,
        from_logits: bool = True,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 4 / 3,
        smooth: float = 0.0,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        process_group: ProcessGroup | str | None = None,
    ) -> None:
        check_number("gamma", gamma, open=True)
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            smooth=smooth,
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            process_group=process_group,
        )


class DiceCrossEntropyLoss(_Loss):
    """`dice_cross_entropy` as a module: options here, `(input, target)` in the call.

    Weight and mask are passed in the call, too; see `segact_torch.functional`.

    With `smooth=0` a sample with an empty mask (`per_sample=True`) has a Dice loss of 1 and no
    gradient of Dice, only that of the cross entropy.

    >>> DiceCrossEntropyLoss()(torch.tensor([[2.0, -2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.2461)
    """

    function = staticmethod(functional.dice_cross_entropy)

    def __init__(
        self,
        activation: str | Activation | None = None,
        *,
        from_logits: bool = True,
        convention: str | None = None,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        smooth: float = 0.0,
        per_sample: bool = False,
        channel_axis: int | None = None,
        pos_weight: float | Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        process_group: ProcessGroup | str | None = None,
    ) -> None:
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            convention=convention,
            lambda_dice=lambda_dice,
            lambda_ce=lambda_ce,
            smooth=smooth,
            per_sample=per_sample,
            channel_axis=channel_axis,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            process_group=process_group,
        )


class LovaszLoss(_Loss):
    """`lovasz` as a module: options here, `(input, target)` in the call.

    Weight and mask are passed in the call, too; see `segact_torch.functional`.

    >>> LovaszLoss("arctan")(torch.tensor([[8.0, -8.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.0396)
    """

    function = staticmethod(functional.lovasz)

    def __init__(
        self,
        activation: str | Activation | None = None,
        *,
        from_logits: bool = True,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        process_group: ProcessGroup | str | None = None,
    ) -> None:
        check_lovasz_groups(per_sample, process_group)
        super().__init__(
            activation=activation,
            from_logits=from_logits,
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            process_group=process_group,
        )


class LovaszHingeLoss(_Loss):
    """`lovasz_hinge` as a module: options here, `(input, target)` in the call.

    Weight and mask are passed in the call, too; see `segact_torch.functional`.

    >>> LovaszHingeLoss()(torch.tensor([[0.5, -3.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.5000)
    """

    function = staticmethod(functional.lovasz_hinge)

    def __init__(
        self,
        *,
        per_sample: bool = False,
        channel_axis: int | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        validate: bool | None = None,
        process_group: ProcessGroup | str | None = None,
    ) -> None:
        check_lovasz_groups(per_sample, process_group)
        super().__init__(
            per_sample=per_sample,
            channel_axis=channel_axis,
            ignore_index=ignore_index,
            reduction=reduction,
            validate=validate,
            process_group=process_group,
        )
