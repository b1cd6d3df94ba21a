"""Drawn images with their masks, for use without data: ellipses on uneven background."""

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float64]


def _waves(size: int, count: int, rng: np.random.Generator) -> Plane:
    """A smooth random surface (size, size) with about zero mean and unit deviation."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    frequencies, phases = rng.normal(0, 5, (count, 2)), rng.uniform(0, 2 * np.pi, count)
    waves = [
        np.cos(fy * y + fx * x + phase) for (fy, fx), phase in zip(frequencies, phases, strict=True)
    ]
    surface: Plane = np.sum(waves, axis=0) * np.sqrt(2 / count)
    return surface


def _distance(size: int, radius: tuple[float, float], rng: np.random.Generator) -> Plane:
    """The approximate depth of each pixel in a random ellipse, in pixels; below 0 outside."""
    y, x = np.mgrid[:size, :size] + 0.5
    cy, cx = rng.uniform(0.05, 0.95, 2) * size
    radii = rng.uniform(*radius, 2) * size
    angle = rng.uniform(0, np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    along, across = cos * (x - cx) + sin * (y - cy), cos * (y - cy) - sin * (x - cx)
    inside: Plane = (1 - np.hypot(along / radii[0], across / radii[1])) * radii.min()
    return inside


def draw(size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image (size, size, 3), RGB, and its mask (size, size, 1), 1 in the ellipses.

    Three to nine ellipses, which may overlap. The brightness of the background varies over an image
    by more than ellipses differ from it, so no threshold finds them. Some are faint, their edges
    are blurred, there is noise, and the edge of the mask is wrong by up to about a pixel, as in
    masks drawn by hand. A few ellipses in another tint belong to the background.
    """
    light = rng.uniform(90, 150) + 28 * _waves(size, 5, rng)
    tint = rng.normal(0, 0.05, 3)
    image = light[..., None] * (1 + tint)
    blur = rng.uniform(0.6, 1.6) * size / 64
    mask = np.zeros((size, size), bool)
    ours, other = np.array([0.1, 0.0, -0.1]), np.array([-0.25, 0.05, 0.2])
    for _ in range(rng.integers(0, 3)):
        cover = _cover(_distance(size, (0.04, 0.09), rng), blur)
        image += cover * rng.uniform(20, 45) * (0.5 + other)
    for _ in range(rng.integers(3, 10)):
        distance = _distance(size, (0.06, 0.16), rng)
        strength = rng.uniform(18, 60) * (1 + 0.15 * _waves(size, 3, rng))
        image += _cover(distance, blur) * strength[..., None] * (1 + ours)
        traced = rng.normal(0, 0.5) + 0.4 * _waves(size, 3, rng)
        mask |= distance > traced * size / 64
    image += rng.normal(0, rng.uniform(6, 14), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), mask[..., None].astype(np.uint8)


def _cover(distance: Plane, blur: float) -> Plane:
    """The fraction of each pixel that an ellipse covers, (size, size, 1): a slope at its edge."""
    cover: Plane = 1 / (1 + np.exp(-np.clip(distance / (blur / 2), -40, 40)))
    return cover[..., None]
