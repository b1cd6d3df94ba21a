"""The figure of `segact-parity conventions`: loss and gradient of every convention for label 0."""

from io import BytesIO
from typing import Any

from parity.conventions.results import Row
from parity.report.palette import BLACK, BLUE, VERMILLION

SUFFIXES = (".png", ".svg")

# Line style, colour and width, in the order of drawing: where lines
# coincide, the wide ones below show on both sides of the narrow ones above.
_STYLES: dict[str, tuple[Any, str, float]] = {
    "exact": ("-", BLACK, 1.2),
    "keras": ("-", "#A6D8F7", 7.5),
    "torch": ("-", "#D08000", 4.0),
    "keras_logit": ((0, (2, 2)), BLUE, 2.0),
    "torch_legacy": ((0, (4, 3)), BLACK, 1.2),
    "keras2": ("-.", VERMILLION, 1.8),
}
_X = (11.0, 20.0)
_LOSS = (10.5, 31.0)


def _ends(curves: dict[str, Any]) -> dict[float, str]:
    """The loss at the right edge, and the conventions with that loss."""
    ends: dict[float, list[str]] = {}
    for name, (x, loss, _) in curves.items():
        ends.setdefault(round(loss[x.index(_X[1])], 1), []).append(name)
    return {loss: ", ".join(names) for loss, names in ends.items()}


def _name_losses(axes: Any, curves: dict[str, Any]) -> None:
    """Names and largest losses at the line ends; an arrow for lines that leave the figure."""
    for loss, names in _ends(curves).items():
        if loss > _LOSS[1]:
            x, losses, _ = curves[names.split(", ")[0]]
            jump = next(a for a, b in zip(x, losses, strict=True) if b > _LOSS[1])
            words = f"{names}: {loss:g}"
            at = (jump, _LOSS[1] - 0.8)
            axes.annotate(words, at, (8, 0), textcoords="offset points", va="center")
            continue
        words = names if "exact" in names else f"{names}: {loss:g}"
        shift = -7 if "keras2" in names else 3 if "keras" in names else 0
        axes.annotate(words, (_X[1], loss), (4, shift), textcoords="offset points", va="center")


def _name_gradients(axes: Any, curves: dict[str, Any]) -> None:
    """Labels at the right edge: the conventions with a gradient, and where others lose it."""
    for level, words in ((1.0, "exact: 1"), (0.0, "all others: 0")):
        axes.annotate(words, (_X[1], level), (4, 0), textcoords="offset points", va="center")
    if "torch" in curves:
        x, _, gradient = curves["torch"]
        last = max(a for a, g in zip(x, gradient, strict=True) if g)
        axes.annotate(
            f"x > {last:.1f}: sigmoid(x) is\nrounded to 1",
            (last, 0.5),
            (8, 0),
            textcoords="offset points",
        )


def draw(rows: list[Row], suffix: str) -> bytes:
    """The picture, of the conventions of one implementation; png or svg by the suffix."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    curves = {row.variant: row.labels["0"]["curve"] for row in rows}
    file = BytesIO()
    with rc_context({"font.size": 9, "svg.hashsalt": "segact"}):
        figure = Figure(figsize=(9, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, (style, colour, width) in _STYLES.items():
            x, loss, gradient = curves.get(name, ([], [], []))
            how: dict[str, Any] = {"linestyle": style, "color": colour, "linewidth": width}
            left.plot(x, loss, label=name, **how)
            right.plot(x, gradient, label=name, **how)
        left.set(ylabel="loss", ylim=_LOSS, title="label 0: loss")
        right.set(ylabel="d loss / dx", ylim=(-0.06, 1.1), title="label 0: gradient")
        for axes, name_lines in ((left, _name_losses), (right, _name_gradients)):
            axes.set(xlabel="raw output x, float32", xlim=_X)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            name_lines(axes, curves)
        left.legend(loc="upper left", handlelength=3.2)
        figure.savefig(file, dpi=130, format=suffix.removeprefix("."))
    return file.getvalue()
