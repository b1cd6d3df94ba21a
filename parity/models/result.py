"""The result of a comparison of two models, as objects: `ParityError.result`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from parity.common.tolerance import Difference
from parity.weights.settings import SettingDifference


@dataclass(frozen=True)
class LayerResult:
    """One call of a pair of layers.

    `number` counts the pairs from 1; `keras` and `pytorch` are the names of the two layers, `kind`
    is their kind (`"conv"`, `"dense"`, ...). `input_error` and `output_error` are the largest
    errors relative to the largest entry, nan if the shapes differ or a number is not finite.
    """

    number: int
    keras: str
    pytorch: str
    kind: str
    input_error: float
    output_error: float


@dataclass(frozen=True)
class Cause:
    """A likely cause, in words in `text`.

    `kind` is `"setting"`, `"weight"`, `"forward"` (the layer does more than its kind does), or,
    between two layers, `"activation"`, `"pooling"`, `"layout"` (another order of axes or channels),
    `"border"` (only pixels there differ) or `"shape"`; or `"precision"` (a layer before computes in
    half precision in one of the two models).
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class ModelResult:
    """How two models compare.

    `where` they diverge is

    - `"layer"`: at `layer`, whose inputs agree and whose outputs do not;
    - `"between"`: after `before` and before `layer`, whose inputs do not agree (`before` is None
      before the first layer, `layer` is None after the last one);
    - `"settings"`: the outputs agree, the `settings` do not;
    - `"rounding"`: nowhere, the outputs miss the given tolerances by rounding;
    - `"losses"`: the outputs agree, the losses do not;
    - `"unknown"`: the outputs differ, but no call of a pair of layers was compared;
    - `""`: nowhere.

    `outputs` are the differences of the models' outputs, by key or number; `difference` is that at
    `where`; `layers` are all calls that were compared, in Keras's order; `causes` are the likely
    causes, the likeliest first; `settings` those that differ in other layers; `left_out` the labels
    of the layers with weights that could not be compared; `pairs` is the map `layers=` by which
    they were compared if their order does not fit, else empty; `report` is the full text, which the
    message of a `ParityError` shortens to at most 40 lines.
    """

    outputs: Mapping[str, Difference]
    where: str = ""
    layer: LayerResult | None = None
    before: LayerResult | None = None
    difference: Difference | None = None
    layers: tuple[LayerResult, ...] = ()
    causes: tuple[Cause, ...] = ()
    settings: tuple[SettingDifference, ...] = ()
    left_out: tuple[str, ...] = ()
    pairs: Mapping[str, str] = field(default_factory=dict)
    report: str = field(default="", repr=False)

    @property
    def passed(self) -> bool:
        """Whether the models agree."""
        return not self.where
