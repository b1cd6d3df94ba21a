"""Drawn cats and dogs, for use without photographs."""

import numpy as np
from numpy.typing import NDArray

_FINE = 2  # drawn at twice the size and shrunk, for smooth edges
Points = NDArray[np.float64]


def _ellipse(centre: tuple[float, float], radii: tuple[float, float]) -> Points:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.array(centre) + np.array(radii) * np.stack([np.cos(angle), np.sin(angle)], 1)


def _ear(roundness: float, side: int) -> Points:
    """An ear: between a triangle (0, cat) and a long drooping ellipse (1, dog)."""
    corners = np.array([[0.16, -0.62], [0.98, -1.55], [0.94, -0.1]])
    share = np.linspace(0, 3, 48, endpoint=False)
    edge, along = share.astype(int), (share % 1)[:, None]
    pointed = corners[edge] * (1 - along) + corners[(edge + 1) % 3] * along
    # both outlines start at the inner corner and turn the same way, so the mean is an ear
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False) - 2.2
    drooping = np.array([1.0, -0.05]) + np.stack([0.32 * np.cos(angle), 0.85 * np.sin(angle)], 1)
    return ((1 - roundness) * pointed + roundness * drooping) * np.array([side, 1])


def _pose(rng: np.random.Generator) -> tuple[Points, Points]:
    """Position and rotation of the head: a matrix and a shift, in units of the image size."""
    turn, scale = rng.normal(0, 0.12), rng.uniform(0.25, 0.31)
    cos, sin = np.cos(turn), np.sin(turn)
    squeeze = np.diag(scale * rng.uniform(0.9, 1.1, 2))
    return squeeze @ np.array([[cos, sin], [-sin, cos]]), 0.55 + rng.uniform(-0.06, 0.06, 2)


def _ground(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A blotchy background, (32, 32, 3): a few random waves in each colour."""
    y, x = np.mgrid[:32, :32] / 32
    colours = np.tile(rng.uniform(120, 220) + rng.normal(0, 15, 3), (32, 32, 1))
    for _ in range(4):
        frequency, phase = rng.normal(0, 7, 2), rng.uniform(0, 2 * np.pi)
        wave = np.cos(frequency[0] * x + frequency[1] * y + phase)
        colours += wave[..., None] * rng.normal(0, 10, 3)
    return np.clip(colours, 0, 255).astype(np.uint8)


def draw(dog: bool, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One head on a blotchy background, uint8 (size, size, 3).

    Only ears and muzzle differ: the roundness of the ears and the width of the muzzle vary around
    0.2 for cats and 0.8 for dogs, so a few lie between the two. Colour, pose, background, noise
    and objects in front have the same distribution for both.
    """
    from PIL import Image, ImageDraw

    fine = _FINE * size
    image = Image.fromarray(_ground(rng)).resize((fine, fine), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    matrix, shift = _pose(rng)

    def fill(points: Points, colour: Points) -> None:
        placed = (points @ matrix + shift) * fine
        pen.polygon([(x, y) for x, y in placed], fill=tuple(int(c) for c in colour))

    fur = rng.uniform(50, 110) * rng.uniform((1.0, 0.8, 0.5), (1.5, 1.1, 1.0))
    dark = rng.uniform(0, 40, 3)  # eyes and nose
    roundness = float(np.clip(rng.normal(0.8 if dog else 0.2, 0.2), -0.1, 1.1))
    for side in (-1, 1):
        fill(_ear(roundness + rng.normal(0, 0.05), side), fur * rng.uniform(0.6, 0.9))
    fill(_ellipse((0, 0), (1, 0.95)), fur)
    fill(_ellipse((0, 0.42), (0.3 + 0.3 * roundness, 0.3 + 0.15 * roundness)), fur * 1.5)
    for side in (-1, 1):
        fill(_ellipse((0.4 * side, -0.2), (0.15, 0.15)), dark)
    fill(_ellipse((0, 0.25), (0.1 + 0.12 * roundness, 0.1)), dark)
    if rng.random() < 0.2:  # an object in front, which may hide an ear
        place = (rng.uniform(-1, 1), rng.uniform(-1.2, 1))
        fill(_ellipse(place, (0.45, 0.3)), rng.uniform(0, 255, 3))
    small = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.float64)
    return np.clip(small + rng.normal(0, 10, small.shape), 0, 255).astype(np.uint8)
