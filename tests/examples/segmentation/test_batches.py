"""Folds of cases, sides that a U-Net can halve, batches with augmentation."""

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the examples' own needs are not installed")
pytest.importorskip("rich")

from examples.common.images import DataError
from examples.segmentation import data
from examples.segmentation.data import Samples, batch, folds, padded
from examples.segmentation.layouts import IGNORE

Array = np.ndarray


class TestFolds:
    """Which cases are for validation."""

    @pytest.mark.parametrize(("cases", "count"), [(10, 5), (13, 5), (7, 7), (5, 2)])
    def test_they_are_contiguous_and_cover_all(self, cases: int, count: int) -> None:
        """As scikit-learn's KFold has them, without shuffling: the first ones have one more."""
        found = folds([f"case{i}" for i in range(cases)], count)
        assert len(found) == count
        sizes = [cases // count + (i < cases % count) for i in range(count)]
        start = 0
        for (training, validation), size in zip(found, sizes, strict=True):
            assert validation.tolist() == list(range(start, start + size))
            assert sorted({*training.tolist(), *validation.tolist()}) == list(range(cases))
            assert len(training) == cases - size
            start += size

    def test_no_case_stands_on_both_sides(self) -> None:
        rng = np.random.default_rng(0)
        cases = [f"patient{i}" for i in rng.integers(0, 12, 100)]
        for training, validation in folds(cases, 5):
            sides = [{cases[i] for i in side} for side in (training, validation)]
            assert not sides[0] & sides[1]
            assert len(training) + len(validation) == 100

    def test_natural_order_decides_not_that_of_the_samples(self) -> None:
        (_, first), (_, second) = folds(["c10", "c9", "c1", "c9"], 2)
        assert first.tolist() == [1, 2, 3]
        assert second.tolist() == [0]

    @pytest.mark.parametrize("count", [-1, 0, 1, True, 2.0])
    def test_too_few(self, count: int) -> None:
        with pytest.raises(DataError, match=r"folds: .*; wanted a whole number, 2 or more"):
            folds(["a", "b", "c"], count)

    def test_more_than_cases(self) -> None:
        with pytest.raises(DataError, match="folds: 3, of 2 cases; wanted as many at most"):
            folds(["a", "b", "a"], 3)


def made(height: int, width: int, count: int = 6, dtype: type = np.uint8) -> Samples:
    """Images whose first channel is the mask's number of the pixel, so that they can be matched."""
    pixel = np.arange(height * width).reshape(height, width)
    images = np.stack([np.stack([pixel, pixel + i], -1) for i in range(count)]).astype(dtype)
    masks = (images[..., :1] % 2).astype(np.uint8)
    names = [str(i) for i in range(count)]
    return Samples(images, masks, names, names, "made")


class TestPadded:
    """Sides that a U-Net can halve."""

    def test_the_sides_and_what_is_there(self) -> None:
        samples = made(6, 9)
        found = padded(samples, 8)
        assert found.images.shape == (6, 8, 16, 2)
        assert found.masks.shape == (6, 8, 16, 1)
        np.testing.assert_array_equal(found.images[:, :6, :9], samples.images)
        np.testing.assert_array_equal(found.masks[:, :6, :9], samples.masks)
        np.testing.assert_array_equal(found.images[:, 6:, :9], samples.images[:, [4, 3]])
        np.testing.assert_array_equal(found.images[:, :6, 9:], samples.images[:, :, 7:0:-1])
        assert (found.masks[:, 6:] == IGNORE).all()
        assert (found.masks[:, :, 9:] == IGNORE).all()

    def test_nothing_where_they_are_right(self) -> None:
        samples = made(8, 16)
        assert padded(samples, 8) is samples

    def test_much_more_than_the_image(self) -> None:
        assert padded(made(3, 2), 32).images.shape == (6, 32, 32, 2)


class TestBatch:
    """What a network gets."""

    def test_validation_is_as_it_is(self) -> None:
        samples = made(6, 9)
        images, masks = batch(samples, [4, 1], seed=0, epoch=None, patch=4, augment=True)
        assert images.dtype == masks.dtype == np.float32
        np.testing.assert_array_equal(images, samples.images[[4, 1]] / np.float32(255))
        np.testing.assert_array_equal(masks, samples.masks[[4, 1]])

    def test_floats_are_not_scaled(self) -> None:
        samples = made(6, 9, dtype=np.float32)
        images, _ = batch(samples, range(2), seed=0, epoch=0, patch=None, augment=False)
        np.testing.assert_array_equal(images, samples.images[:2])

    @pytest.mark.parametrize("patch", [None, 5])
    def test_each_sample_is_on_its_own(self, patch: int | None) -> None:
        """The same in whatever batch it comes; another in another epoch, or by another seed."""
        samples = made(12, 12, 40)
        options = {"patch": patch, "augment": True}
        together = batch(samples, range(40), seed=1, epoch=2, **options)
        for indices in ([7], [30, 7, 3]):
            alone = batch(samples, indices, seed=1, epoch=2, **options)
            for a, b in zip(alone, together, strict=True):
                np.testing.assert_array_equal(a, b[indices])
        for seed, epoch in ((1, 3), (2, 2)):
            other, _ = batch(samples, range(40), seed=seed, epoch=epoch, **options)
            changed = [(a != b).any() for a, b in zip(other, together[0], strict=True)]
            assert sum(changed) > 25

    @pytest.mark.parametrize(("height", "width", "ways"), [(5, 5, 8), (5, 4, 4)])
    def test_all_ways_of_turning(self, height: int, width: int, ways: int) -> None:
        samples = made(height, width, 1, np.float32)
        image, mask = samples.images[0], samples.masks[0]
        expected = {
            np.rot90(flipped, turns).tobytes()
            for flipped in (image, image[::-1])
            for turns in (range(4) if height == width else (0, 2))
        }
        assert len(expected) == ways
        seen: dict[bytes, int] = {}
        for epoch in range(100 * ways):
            (found,), (with_mask,) = batch(
                samples, [0], seed=3, epoch=epoch, patch=None, augment=True
            )
            np.testing.assert_array_equal(found[..., :1] % 2, with_mask)
            seen[found.tobytes()] = seen.get(found.tobytes(), 0) + 1
        assert seen.keys() == expected
        assert min(seen.values()) > 60
        np.testing.assert_array_equal(image[..., :1] % 2, mask)  # the samples are left alone

    def test_windows_are_of_image_and_mask_alike_and_anywhere(self) -> None:
        samples = made(7, 9, 1, np.float32)
        corners = set()
        for epoch in range(300):
            (image,), (mask,) = batch(samples, [0], seed=0, epoch=epoch, patch=5, augment=False)
            top, left = divmod(int(image[0, 0, 0]), 9)
            np.testing.assert_array_equal(image, samples.images[0, top : top + 5, left : left + 5])
            np.testing.assert_array_equal(mask, samples.masks[0, top : top + 5, left : left + 5])
            corners.add((top, left))
        assert corners == {(top, left) for top in range(3) for left in range(5)}

    def test_some_of_a_window_counts(self) -> None:
        """One pixel of 40 x 40 does; a window of 4 x 4 about it has it in any place."""
        samples = made(40, 40, 300)
        samples.masks[...] = IGNORE
        samples.masks[:299, 1, 38] = 1
        _, masks = batch(samples, range(300), seed=0, epoch=0, patch=4, augment=False)
        assert ((masks[:299] == 1).sum((1, 2, 3)) == 1).all()
        assert (masks[299] == IGNORE).all()
        places = {tuple(np.argwhere(mask[..., 0] == 1)[0]) for mask in masks[:299]}
        assert places == {(row, column) for row in (0, 1) for column in (2, 3)}

    @pytest.mark.parametrize("patch", [8, 0, -1, 2.0])
    def test_a_patch_that_cannot_be(self, patch: int) -> None:
        samples = made(7, 9)
        for check in (
            lambda: data.check_patch(samples, patch),
            lambda: batch(samples, [0], seed=0, epoch=0, patch=patch, augment=False),
        ):
            with pytest.raises(DataError, match=r"patch: .*(9 x 7, which is smaller|whole number)"):
                check()
        data.check_patch(samples, 7)
        data.check_patch(samples, None)
