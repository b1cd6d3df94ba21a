"""Draw the seven activations and their log tails: docs/images/activations.png.

python scripts/draw_activations.py
"""

from pathlib import Path

from parity.extras import needs

with needs("draw_activations", "dev"):
    import matplotlib.pyplot as plt
    import torch

    from segact_torch import get_activation

# Name: line style and colour, of Okabe and Ito's palette.
STYLES = {
    "sigmoid": ("-", "#000000"),
    "normal_cdf": ("--", "#0072B2"),
    "arctan": ("-.", "#D55E00"),
    "softsign": (":", "#009E73"),
    "inverse_square_root": ((0, (5, 1, 1, 1, 1, 1)), "#CC79A7"),
    "hardtanh": ((0, (4, 4)), "#E69F00"),
    "linear": ((0, (9, 2)), "#777777"),
}
# Where each log tail is named.
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


def main() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    for name, (style, colour) in STYLES.items():
        f = get_activation(name)
        x = torch.linspace(-6, 6, 1201, dtype=torch.float64)
        left.plot(x, f.cdf(x), linestyle=style, color=colour, label=name, linewidth=1.8)
        x = torch.linspace(-40, 40, 8001, dtype=torch.float64)
        right.plot(x[x <= 0], f.logcdf(x)[x <= 0], linestyle=style, color=colour, linewidth=1.8)
        right.text(*NAMES[name], name, fontsize=8, color=colour)
    left.set(xlabel="raw output x", ylabel="F(x)", title="probability of class 1")
    left.legend(fontsize=8, loc="upper left", handlelength=3.6)
    right.axhline(-16.118, color="#999999", linewidth=0.8)
    right.text(-39.5, -16.9, "log 1e-7: the published\nformulas stop here", fontsize=8, va="top")
    right.set(xlabel="raw output x", ylabel="log F(x)", title="its logarithm", ylim=(-42, 2.5))
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    PATH.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PATH, dpi=130)
    print(PATH)


if __name__ == "__main__":
    main()
