"""The style of figures: the colours of Okabe and Ito's palette, and a style for each activation.

Lines differ in their dashes and marks, not only in their colours.
"""

from typing import Any

from parity.suite import case

BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
"""The palette's yellow is too light for lines on white."""
GREY = "#777777"
"""For the line with which others are compared."""

Look = dict[str, Any]
"""Colour, marker and dashes of a line, as matplotlib takes them."""

LOOKS: tuple[Look, ...] = (
    {"color": BLACK, "marker": "o", "linestyle": "-"},
    {"color": BLUE, "marker": "s", "linestyle": "--"},
    {"color": VERMILLION, "marker": "^", "linestyle": "-."},
    {"color": GREEN, "marker": "D", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": PURPLE, "marker": "v", "linestyle": (0, (3, 1))},
    {"color": ORANGE, "marker": "P", "linestyle": (0, (7, 2))},
    {"color": SKY, "marker": "X", "linestyle": (0, (1, 1))},
)
"""Line styles that are easy to distinguish."""

ACTIVATIONS = dict(zip(case.ACTIVATIONS, LOOKS, strict=True))
"""The style of each activation, in every figure."""
