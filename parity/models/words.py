"""The text on where two models diverge: in full, or in at most 40 lines."""

from collections.abc import Sequence
from dataclasses import dataclass

from parity.common.tolerance import Difference
from parity.models.closeness import relative_error
from parity.models.divergence import Divergence
from parity.models.pairs import Paired
from parity.models.steps import Step
from parity.weights.pairing import as_python
from parity.weights.settings import SettingDifference, grouped

LINES = 37
"""The most lines of a message, without the last ones, which say where the full text is."""

_NAMES = 8  # of layers in one line
_MAP = 10  # of pairs
_DIFFER = "the outputs differ, first"
_HIDDEN = "the outputs agree on these inputs, but not all layers do: first"


@dataclass
class Section:
    """Lines under a heading; all but the first (or last) `least` of them may be left out."""

    heading: list[str]
    lines: list[str]
    least: int = 1000
    last: bool = False

    def shown(self, many: int) -> list[str]:
        """`many` of the lines, and a line with the number of the others."""
        more = len(self.lines) - many
        if more <= 0:
            return [*self.heading, *self.lines]
        kept = self.lines[more:] if self.last else self.lines[:many]
        rest = f"  ... and {more} {'before these' if self.last else 'more'}"
        return [*self.heading, *([rest, *kept] if self.last else [*kept, rest])]


def text(sections: Sequence[Section], limit: int | None = None) -> str:
    """The sections one after the other; the longest are shortened until `limit` lines are left."""
    many = [len(section.lines) for section in sections]
    while True:
        shown = [s.shown(count) for s, count in zip(sections, many, strict=True)]
        lines = [line for part in shown for line in part]
        spare = [n - s.least for n, s in zip(many, sections, strict=True)]
        if limit is None or len(lines) <= limit or max(spare) <= 0:
            return "\n".join(lines)
        many[spare.index(max(spare))] -= 2 if max(spare) > 1 else 1


def indented(lines: Sequence[object]) -> list[str]:
    """Each line with two blanks before it."""
    return [f"  {line}" for line in lines]


def sections_of(found: Divergence, short: bool, why: str = "") -> list[Section]:
    """Where the models diverge, why, and the error of each layer; `why`: why there are no pairs."""
    if found.where == "settings":
        return [_settings_alone(found, short)]
    opening = _HIDDEN if found.hidden else _DIFFER
    if found.where == "layer":
        sections = _at_layer(found, opening)
    elif found.where == "between":
        sections = _between(found, opening, short)
    elif found.where == "rounding":
        line = "the outputs miss the given tolerances; no layer does more than round otherwise"
        sections = [Section([line], [])]
    elif found.where:
        because = f", as the layers are no pairs: {why}" if why else ": no call was compared"
        line, *more = f"the outputs differ; where is not known{because}".splitlines()
        if not why and not found.uncalled:
            more = ["  the calls of recurrent layers, attention and SeparableConv are not compared"]
        sections = [Section([line], more, 2)]
        if found.causes:
            sections.append(Section(["likely cause"], indented(found.causes), 3))
    else:
        return []
    uncalled = [Section([""], found.uncalled, 2)] if found.uncalled else []
    elsewhere = _elsewhere(found.settings, short)
    return [*sections, *_so_far(found.steps), *elsewhere, *uncalled]


def left_out(found: Paired) -> list[Section]:
    """The layers with weights that were not compared."""
    sections = []
    if found.unknown:
        heading = ["", "not compared, as their kind is not known"]
        sections.append(Section(heading, indented(found.unknown), 2))
    if found.single:
        heading = ["", "not compared, as none of the other model fits"]
        sections.append(Section(heading, indented(found.single), 2))
    if found.why and found.pairs:
        line, *more = f"those that fit in order were compared: {found.why}".splitlines()
        sections.append(Section(["", line], more, 2))
    return sections


def by_the_map(found: Paired, short: bool) -> list[Section]:
    """The map by which the layers were compared, where their order does not fit."""
    if not found.layers:
        return []
    heading = f"compared by a map, as {found.apart}:"
    shown = _MAP if short else len(found.layers)
    return [Section(["", heading, *as_python(found.layers, shown)], [])]


def output(name: str, found: Difference) -> Section:
    """The difference of an output of the models."""
    return Section(["", f"output{name} of the models"], indented(found.lines(("Keras", "PyTorch"))))


def _at_layer(found: Divergence, opening: str) -> list[Section]:
    step = found.step
    assert step is not None  # since `where` says so
    assert found.difference is not None
    keras, pytorch = step.pair
    line = (
        f"{opening} at layer {step.number}: {keras.label} and {pytorch.label}: their inputs agree, "
        "their outputs do not"
    )
    return [
        Section([line], indented(found.difference.lines(step.names))),
        Section(["likely cause"], indented(found.causes), 3),
    ]


def _between(found: Divergence, opening: str, short: bool) -> list[Section]:
    """The text if one pair's outputs agree and the next one's inputs do not."""
    last, step = found.last, found.step
    assert found.difference is not None  # since `where` says so
    if last is None and step is not None and step.number > 1:
        place = f"before {' / '.join(step.names)}, the first layers that are compared"
    elif last is None:
        place = "before the first layer with weights"
    elif step is None:
        place = f"after the last layer with weights, {' / '.join(last.names)}"
    else:
        place = f"between {' / '.join(last.names)} and {' / '.join(step.names)}"
    names = step.names if step else ("Keras", "PyTorch")
    what = "inputs of the latter" if step and last else "inputs" if step else "outputs"
    doubtful = last is not None and last.own_forward and not last.agrees
    but = " but for what this one's own forward gives" if doubtful else ""
    agrees = f"all before agrees{but}, the {what} do not" if last else f"the {what} do not agree"
    line = f"{opening} {place}: {agrees}"
    sections = [Section([line], indented(found.difference.lines(names)))]
    if found.causes:
        sections.append(Section(["likely cause"], indented(found.causes), 3))
    keras, pytorch = (_listed(labels, short) for labels in found.between)
    layers = [
        f"  Keras: {keras}",
        f"  PyTorch: {pytorch}; functions that forward calls are not seen",
    ]
    return [*sections, Section(["what lies there"], layers)]


def _listed(labels: Sequence[str], short: bool) -> str:
    shown = labels[:_NAMES] if short else labels
    more = [f"and {len(labels) - len(shown)} more"] if len(labels) > len(shown) else []
    return ", ".join([*shown, *more]) or "no layer"


def _settings_alone(found: Divergence, short: bool) -> Section:
    line = "the outputs agree on these inputs, the epsilons do not"
    numbers = {f"{one} and {other}": n for n, (one, other) in found.numbers.items()}
    if short:
        lines = grouped(found.settings)
    else:
        lines = [f"{' and '.join(each.layers)}: {each}" for each in found.settings]
    numbered = []
    for one in lines:
        number = numbers.get(one.partition(": ")[0])
        numbered.append(f"layer {number}: {one}" if number else one)
    return Section([line], numbered, 3)


def _so_far(steps: Sequence[Step]) -> list[Section]:
    """The largest error of every layer's outputs, relative to the largest entry."""
    if not steps:
        return []
    lines = []
    for step in steps:
        same = step.outputs[0].shape == step.outputs[1].shape
        error = f"{relative_error(*step.outputs):.1e}" if same else "other shapes"
        lines.append(f"  {' / '.join(step.names)}: {error}")
    heading = ["", "largest error of each layer's outputs, relative to its largest output"]
    return [Section(heading, lines, 4, last=True)]


def _elsewhere(settings: Sequence[SettingDifference], short: bool) -> list[Section]:
    """The settings that differ in all other pairs: there may be more than one error."""
    if not settings:
        return []
    lines = grouped(settings, labelled=False) if short else list(map(str, settings))
    return [Section(["", "settings that differ elsewhere"], indented(lines), 2)]
