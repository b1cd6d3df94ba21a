"""Draw the seven activations and their log tails: docs/images/activations.png.

python scripts/draw_activations.py
"""

from pathlib import Path

from parity.common.extras import needs

with needs("draw_activations", "dev"):
    import torch
    from matplotlib.figure import Figure

    from parity.report.palette import ACTIVATIONS
    from segact_torch import get_activation

# The positions of the names of the log tails.
NAMES = {
    "sigmoid": (-33.5, -26.8),
    "normal_cdf": (-17.5, -36),
    "arctan": (-25, -6.4),
    "softsign": (-21, -3.2),
    "inverse_square_root": (-39, -10.8),
    "hardtanh": (-31, -15.2),
    "linear": (-12, 0.6),
}
PATH = Path(__file__).parents[1] / "docs" / "images" / "activations.png"


def draw() -> Figure:
    """The figure."""
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, look in ACTIVATIONS.items():
        f = get_activation(name)
        how = {"color": look["color"], "linestyle": look["linestyle"], "linewidth": 1.8}
        x = torch.linspace(-6, 6, 1201, dtype=torch.float64)
        left.plot(x, f.cdf(x), label=name, **how)
        x = torch.linspace(-40, 40, 8001, dtype=torch.float64)
        right.plot(x[x <= 0], f.logcdf(x)[x <= 0], **how)
        right.text(*NAMES[name], name, fontsize=8, color=look["color"])
    left.set(xlabel="raw output x", ylabel="F(x)", title="probability of class 1")
    left.legend(fontsize=8, loc="upper left", handlelength=3.6)
    right.axhline(-16.118, color="0.6", linewidth=0.8)
    right.text(-39.5, -16.9, "log 1e-7: the published\nformulas stop here", fontsize=8, va="top")
    right.set(xlabel="raw output x", ylabel="log F(x)", title="its logarithm", ylim=(-42, 2.5))
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    PATH.parent.mkdir(parents=True, exist_ok=True)
    draw().savefig(PATH, dpi=130)
    print(PATH)


if __name__ == "__main__":
    main()
