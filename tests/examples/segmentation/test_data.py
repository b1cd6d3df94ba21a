"""Images with masks from every layout, and drawn ones."""

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the examples' own needs are not installed")
pytest.importorskip("rich")

from PIL import Image

from examples.common.images import DataError
from examples.segmentation import data, layouts
from examples.segmentation.data import Samples, folds, load, padded
from examples.segmentation.layouts import IGNORE

Array = np.ndarray
NAMES = ["10", "9", "2", "a.b"]
IN_ORDER = ["2", "9", "10", "a.b"]


def pixels(seed: int, width: int = 12, height: int = 12, channels: int = 3) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def blob(seed: int, width: int = 12, height: int = 12) -> Array:
    """A mask of 0 and 1 with both in it."""
    mask = np.random.default_rng(seed).integers(0, 2, (height, width), np.uint8)
    mask[0, :2] = 0, 1
    return mask


def save(path: Path, array: Array, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images and masks that all differ."""
    for i, name in enumerate(NAMES):
        save(tmp_path / "set/images" / f"{name}.png", pixels(i))
        save(tmp_path / "set/masks" / f"{name}.{'png' if i % 2 else 'tif'}", 255 * blob(i))
    return tmp_path / "set"


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Three images of each half, 14 x 10, with the first column out of the field of view."""
    root = tmp_path / "DRIVE"
    field = np.full((10, 14), 255, np.uint8)
    field[:, 0] = 0
    for split, first in (("training", 21), ("test", 1)):
        for n in range(first, first + 3):
            save(root / split / f"images/{n:02}_{split}.tif", pixels(n, 14, 10))
            save(root / split / f"1st_manual/{n:02}_manual1.gif", 255 * blob(n, 14, 10))
            save(root / split / f"mask/{n:02}_{split}_mask.gif", field)
    return root


@pytest.fixture
def processed(tmp_path: Path) -> Callable[..., str]:
    """Writes the test space's folder with arrays for cases 0, 1 and 10; gives its source."""

    def made(change: Callable[[Array], Array] = lambda array: array) -> str:
        root = tmp_path / "ACDC" / "processed_training"
        for case, count in (("10", 1), ("0", 11), ("1", 2)):
            for k in range(count):
                (root / case).mkdir(parents=True, exist_ok=True)
                array = pixels(100 * int(case) + k, 8, 8, 3).astype(np.float64)
                array[..., -1] = np.arange(64).reshape(8, 8) % 2
                np.save(root / case / f"processed_{k}.npy", change(array))
        (root / "11").mkdir()
        for other in ("0/0.png", "1/map_0_z_0.npy", "notes.txt"):
            (root / other).write_bytes(b"not for us")
        return f"processed:{root}"

    return made


def refused(match: str, source: str | None, **options: object) -> str:
    """The line of the `DataError` that `load` raises."""
    with pytest.raises(DataError, match=match) as error:
        load(source, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def same(one: Samples, other: Samples) -> None:
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.masks, other.masks)
    assert one.images.dtype == other.images.dtype
    assert (one.cases, one.names) == (other.cases, other.names)


@pytest.mark.parametrize("layout", ["dsb2018", "kvasir"])
class TestImagesAndMasks:
    """A folder of images and one of masks."""

    def test_what_it_gives(self, folder: Path, layout: str) -> None:
        samples = load(f"{layout}:{folder}")
        assert samples.source == f"{layout}:{folder}"
        assert samples.cases == IN_ORDER
        assert samples.names == [f"images/{name}.png" for name in IN_ORDER]
        assert samples.images.dtype == samples.masks.dtype == np.uint8
        assert samples.masks.shape == (4, 12, 12, 1)
        for i, name in enumerate(IN_ORDER):
            seed = NAMES.index(name)
            np.testing.assert_array_equal(samples.images[i], pixels(seed))
            np.testing.assert_array_equal(samples.masks[i, ..., 0], blob(seed))

    def test_jpeg(self, folder: Path, layout: str) -> None:
        shape = np.zeros((12, 12), np.uint8)
        shape[3:, 5:] = 255
        save(folder / "images/a.b.jpg", pixels(0), quality=95)
        save(folder / "masks/a.b.jpg", np.stack([shape] * 3, -1), quality=50)
        for place in ("images", "masks"):
            (folder / place / "a.b.png").unlink()
        np.testing.assert_array_equal(load(f"{layout}:{folder}").masks[-1, ..., 0], shape == 255)

    def test_an_image_without_a_mask(self, folder: Path, layout: str) -> None:
        (folder / "masks/10.tif").unlink()
        line = refused(r"images/10\.png: has no mask in masks$", f"{layout}:{folder}")
        (folder / "masks/2.tif").unlink()
        line = refused(r"images/2\.png: has no mask in masks; 1 more", f"{layout}:{folder}")
        assert line.endswith("1 more have none")

    def test_a_mask_without_an_image(self, folder: Path, layout: str) -> None:
        (folder / "images/a.b.png").unlink()
        refused(r"masks/a\.b\.png: has no image in images$", f"{layout}:{folder}")

    def test_two_of_one_name(self, folder: Path, layout: str) -> None:
        save(folder / "masks/10.png", blob(0))
        refused(r"masks/10\..*same name; wanted one of the two", f"{layout}:{folder}")

    def test_a_mask_of_another_size(self, folder: Path, layout: str) -> None:
        save(folder / "masks/9.png", 255 * blob(0, 10, 11))
        for size in (None, 8):
            line = refused(r"masks/9\.png: 10 x 11", f"{layout}:{folder}", size=size)
            assert line.endswith("and its image 12 x 12; wanted the same")

    def test_images_of_different_sizes(self, folder: Path, layout: str) -> None:
        save(folder / "images/10.png", pixels(0, 20, 9))
        save(folder / "masks/10.tif", 255 * blob(0, 20, 9))
        line = refused(r"images/10\.png: 20 x 9", f"{layout}:{folder}")
        assert line.endswith("and images/2.png 12 x 12; give --size to stretch all to one")
        assert load(f"{layout}:{folder}", 12).images.shape == (4, 12, 12, 3)

    def test_no_such_folder(self, tmp_path: Path, layout: str) -> None:
        refused("nowhere: no such folder$", f"{layout}:{tmp_path / 'nowhere'}")

    def test_a_file_for_a_folder(self, folder: Path, layout: str) -> None:
        refused(r"not a folder; wanted one with images", f"{layout}:{folder}/images/9.png")

    @pytest.mark.parametrize("below", ["..", "images"])
    def test_the_wrong_folder(self, folder: Path, layout: str, below: str) -> None:
        wrong = (folder / below).resolve()
        refused(f"no folder images in it; did you mean {folder}", f"{layout}:{wrong}")

    def test_what_is_there_instead(self, folder: Path, layout: str) -> None:
        shutil.rmtree(folder / "masks")
        line = refused("no folder masks in it; wanted images, masks", f"{layout}:{folder}")
        assert line.endswith("found images")

    def test_an_empty_folder(self, folder: Path, layout: str) -> None:
        shutil.rmtree(folder / "images")
        (folder / "images").mkdir()
        (folder / "images/Thumbs.db").touch()
        refused("images: no images in this folder", f"{layout}:{folder}")

    def test_all_bad_files_are_counted(self, folder: Path, layout: str) -> None:
        (folder / "images/9.png").write_bytes(b"no image")
        content = (folder / "masks/10.tif").read_bytes()
        (folder / "masks/10.tif").write_bytes(content[:-80])
        save(folder / "masks/a.b.png", np.full((12, 12), 128, np.uint8))
        line = refused(r"images/9\.png: not an image", f"{layout}:{folder}")
        assert line.endswith("; 2 more cannot be used")


class TestMasksThatAreNotBinary:
    """What is taken for a mask, and what is not."""

    @staticmethod
    def ellipse() -> Array:
        y, x = np.mgrid[:200, :200] / 200 - 0.5
        return ((x / 0.4) ** 2 + (y / 0.3) ** 2 < 1).astype(np.uint8)

    def load(self, folder: Path, mask: Array, suffix: str = "png", **options: object) -> Array:
        for place in ("images", "masks"):
            shutil.rmtree(folder / place)
        height, width = mask.shape[:2]
        save(folder / "images/0.png", pixels(0, width, height))
        save(folder / f"masks/0.{suffix}", mask, **options)
        return load(f"kvasir:{folder}").masks[0, ..., 0]

    def test_zeros_and_ones(self, folder: Path) -> None:
        np.testing.assert_array_equal(self.load(folder, self.ellipse()), self.ellipse())

    @pytest.mark.parametrize("value", [0, 255])
    def test_all_alike(self, folder: Path, value: int) -> None:
        found = self.load(folder, np.full((20, 20), value, np.uint8))
        assert (found == value // 255).all()

    def test_grey_borders(self, folder: Path) -> None:
        """Resized to less than half, as the nuclei were: above 127 is 1."""
        whole = Image.fromarray(255 * self.ellipse())
        small = np.asarray(whole.resize((72, 72), Image.Resampling.BILINEAR))
        assert np.unique(small).size > 20
        np.testing.assert_array_equal(self.load(folder, small), small > 127)

    @pytest.mark.parametrize("quality", [40, 75, 95])
    def test_jpeg_leaves_the_shape(self, folder: Path, quality: int) -> None:
        found = self.load(folder, 255 * self.ellipse(), "jpg", quality=quality)
        assert (found != self.ellipse()).mean() < 0.002

    def test_labels_are_refused(self, folder: Path) -> None:
        labels = self.ellipse() + self.ellipse()[::-1].cumsum(0).astype(np.uint8) % 3
        with pytest.raises(
            DataError, match=r"0\.png: not a binary mask, its values are 0, 1, 2, 3"
        ):
            self.load(folder, labels)

    def test_three_labels_spread_over_the_grey_are_refused(self, folder: Path) -> None:
        labels = 255 * self.ellipse()
        labels[90:110, 90:110] = 128  # one pixel in a hundred
        with pytest.raises(DataError, match=r"not a binary mask, 0\.8% of it are grey areas"):
            self.load(folder, labels)

    def test_a_photograph_is_refused(self, folder: Path) -> None:
        y, x = np.mgrid[:100, :100]
        shaded = (127 + 80 * np.sin(x / 9) + 40 * np.cos(y / 5)).astype(np.uint8)
        with pytest.raises(DataError, match="grey areas; wanted 0 and 255"):
            self.load(folder, shaded)

    def test_sixteen_bits_are_refused(self, folder: Path) -> None:
        with pytest.raises(DataError, match="I;16 pixels; wanted 8 bits a channel"):
            self.load(folder, self.ellipse().astype(np.uint16) * 65535)


class TestDrive:
    """The vessels, as distributed."""

    def test_what_it_gives(self, drive: Path) -> None:
        samples = load(f"drive:{drive}")
        assert samples.cases == [
            *("test/01", "test/02", "test/03"),
            *("training/21", "training/22", "training/23"),
        ]
        assert samples.names[3] == "training/images/21_training.tif"
        for i, seed in enumerate((1, 2, 3, 21, 22, 23)):
            np.testing.assert_array_equal(samples.images[i], pixels(seed, 14, 10))
            mask = samples.masks[i, ..., 0]
            assert (mask[:, 0] == IGNORE).all()
            np.testing.assert_array_equal(mask[:, 1:], blob(seed, 14, 10)[:, 1:])

    def test_the_field_of_view_is_stretched_with_it(self, drive: Path) -> None:
        masks = load(f"drive:{drive}", 28).masks[..., 0]
        assert (masks[:, :, :2] == IGNORE).all()
        assert (masks[:, :, 2:] != IGNORE).all()

    @pytest.mark.parametrize(
        ("lost", "match"),
        [
            ("test/mask/02_test_mask.gif", r"02_test\.tif: has no field of view in test/mask$"),
            ("test/images/03_test.tif", r"03_manual1\.gif: has no image in test/images$"),
            ("training/1st_manual/22_manual1.gif", r"22_training\.tif: has no mask of vessels"),
        ],
    )
    def test_lost_files(self, drive: Path, lost: str, match: str) -> None:
        (drive / lost).unlink()
        refused(match, f"drive:{drive}")

    def test_the_wrong_folder(self, drive: Path) -> None:
        refused(f"did you mean {drive}", f"drive:{drive / 'test'}")
        shutil.rmtree(drive / "test/1st_manual")
        refused("no folder test/1st_manual in it; wanted test/images", f"drive:{drive}")
        shutil.rmtree(drive / "test")
        refused("no folder test in it; wanted test, training; found training", f"drive:{drive}")


class TestProcessed:
    """The test space's own arrays."""

    def test_what_it_gives(self, processed: Callable[..., str]) -> None:
        samples = load(processed(lambda array: array / [255, 255, 1]))
        assert samples.cases == ["0"] * 11 + ["1"] * 2 + ["10"]
        assert samples.names[9:12] == [
            "0/processed_9.npy",
            "0/processed_10.npy",
            "1/processed_0.npy",
        ]
        assert samples.images.dtype == np.float32
        expected = pixels(101, 8, 8, 3)[..., :2] / 255
        np.testing.assert_array_equal(samples.images[12], expected.astype(np.float32))
        np.testing.assert_array_equal(samples.masks[12, ..., 0], np.arange(64).reshape(8, 8) % 2)

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int16])
    def test_bytes_are_bytes_however_they_are_stored(
        self, processed: Callable[..., str], dtype: type
    ) -> None:
        samples = load(processed(lambda array: array.astype(dtype)))
        assert samples.images.dtype == np.uint8
        np.testing.assert_array_equal(samples.images[12], pixels(101, 8, 8, 3)[..., :2])

    @pytest.mark.parametrize("size", [None, 4])
    def test_one_slice_with_parts_makes_all_floats(
        self, processed: Callable[..., str], size: int | None
    ) -> None:
        source = processed()
        path = Path(source.partition(":")[2]) / "10/processed_0.npy"
        array = np.load(path)
        array[0, 0, 0] += 0.5
        np.save(path, array)
        samples = load(source, size)
        assert samples.images.dtype == np.float32
        assert samples.images.max() > 200

    def test_floats_up_to_one_stay_floats(self, processed: Callable[..., str]) -> None:
        samples = load(processed(lambda array: np.float32(array > 1)))
        assert samples.images.dtype == np.float32
        assert samples.images.max() == 1

    def test_labels_become_masks(self, processed: Callable[..., str]) -> None:
        labels = np.arange(64).reshape(8, 8) % 4
        source = processed(lambda array: np.dstack([array[..., :2], labels]))
        masks = load(source, classes=3).masks
        assert masks.shape == (14, 8, 8, 3)
        for k in range(3):
            np.testing.assert_array_equal(masks[5, ..., k], labels == k + 1)
        for classes, wanted in ((1, "0 and 1"), (2, "0 to 2")):
            line = refused(r"0/processed_0\.npy: labels 0, 1, 2, 3", source, classes=classes)
            assert f"wanted {wanted} (--classes" in line
            assert line.endswith("13 more cannot be used")

    @pytest.mark.parametrize("layout", ["dsb2018", "synthetic"])
    def test_others_have_one_class(self, folder: Path, layout: str) -> None:
        source = None if layout == "synthetic" else f"{layout}:{folder}"
        refused(f"classes: 2; masks of {layout} have one", source, classes=2)

    @pytest.mark.filterwarnings("error::ResourceWarning")  # of a file left open
    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (np.zeros((8, 8)), r"shape \(8, 8\); wanted \(H, W, channels \+ 1\)"),
            (np.zeros((8, 8, 1)), r"shape \(8, 8, 1\)"),
            (np.zeros((0, 8, 3)), r"shape \(0, 8, 3\)"),
            (np.full((8, 8, 3), np.nan), "not finite"),
            (np.full((8, 8, 3), "1"), "wanted one array of numbers"),
            (np.full((8, 8, 3), None), "not a file of one array, or a damaged one"),
            (b"\x93NUMPY", "not a file of one array"),
            (b"PK\x03\x04 no zip", "not a file of one array"),
            (b"", "not a file of one array"),
            (np.zeros((8, 8, 5)), r"4 channels, and 0/processed_0\.npy 2; wanted as many"),
            (np.zeros((8, 9, 3)), r"9 x 8 \(width x height\), and 0/processed_0\.npy 8 x 8"),
        ],
    )
    def test_what_is_no_such_array(
        self, processed: Callable[..., str], content: Array | bytes, match: str
    ) -> None:
        source = processed()
        path = Path(source.partition(":")[2]) / "1/processed_0.npy"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content, allow_pickle=True)
        line = refused(match, source)
        assert line.startswith(f"{path}: ")
        gc.collect()

    def test_the_wrong_folder(self, processed: Callable[..., str], tmp_path: Path) -> None:
        root = processed().partition(":")[2]
        refused(f"did you mean {root}", f"processed:{tmp_path / 'ACDC'}")
        refused(f"did you mean {root}", f"processed:{root}/1")
        refused(r"no CASE/processed_K\.npy in it$", f"processed:{tmp_path}")
        refused("gone: no such folder", f"processed:{tmp_path}/gone")
        refused("not a folder", f"processed:{root}/notes.txt")


class TestSource:
    """What `load` is asked for."""

    @pytest.mark.parametrize("source", ["", "nuclei", "dsb2018", "dsb2018:", "/data/dsb2018"])
    def test_neither_layout_nor_folder(self, source: str) -> None:
        refused("wanted LAYOUT:DIR, with a LAYOUT of dsb2018, kvasir, drive, processed", source)

    def test_an_unknown_layout(self, tmp_path: Path) -> None:
        refused("unknown layout 'acdc'; wanted one of dsb2018", f"acdc:{tmp_path}")

    def test_the_users_own_folder(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(folder.parent))
        same(load("kvasir:~/set"), load(f"kvasir:{folder}"))

    @pytest.mark.parametrize("size", [0, -3, True, 8.0])
    def test_sizes_that_cannot_be(self, folder: Path, size: int) -> None:
        for source in (f"dsb2018:{folder}", None):
            refused("size: .*; wanted a whole number, 1 or more", source, size=size)

    @pytest.mark.parametrize("size", [5, 12, 32])
    def test_stretched(self, folder: Path, size: int) -> None:
        samples = load(f"dsb2018:{folder}", size)
        for i, name in enumerate(IN_ORDER):
            image = Image.fromarray(pixels(NAMES.index(name)))
            mask = Image.fromarray(blob(NAMES.index(name)))
            wide = image.resize((size, size), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(samples.images[i], np.asarray(wide))
            wide = mask.resize((size, size), Image.Resampling.NEAREST)
            np.testing.assert_array_equal(samples.masks[i, ..., 0], np.asarray(wide))


class TestCache:
    """What was read is kept."""

    @pytest.fixture
    def decoded(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        """The files that were decoded, one by one."""
        seen: list[Path] = []
        original = layouts.read_image

        def counted(path: Path, mode: str) -> object:
            seen.append(path)
            return original(path, mode)

        monkeypatch.setattr(layouts, "read_image", counted)
        return seen

    @pytest.mark.parametrize("size", [None, 8])
    def test_it_gives_the_same_and_decodes_nothing(
        self, drive: Path, tmp_path: Path, decoded: list[Path], size: int | None
    ) -> None:
        first = load(f"drive:{drive}", size, tmp_path / "new/cache")
        assert len(decoded) == 18
        same(load(f"drive:{drive}", size, tmp_path / "new/cache"), first)
        assert len(decoded) == 18
        same(load(f"drive:{drive}", size), first)
        assert len(list((tmp_path / "new/cache").iterdir())) == 1

    @pytest.mark.parametrize("change", ["image", "mask", "name", "time"])
    def test_other_files_make_it_anew(
        self, folder: Path, tmp_path: Path, decoded: list[Path], change: str
    ) -> None:
        source = f"dsb2018:{folder}"
        load(source, 8, tmp_path)
        path = folder / ("masks/9.png" if change == "mask" else "images/9.png")
        stamp = path.stat().st_mtime_ns
        if change in ("image", "mask"):
            save(path, pixels(9) if change == "image" else blob(9))
            os.utime(path, ns=(stamp, stamp + 1))
        elif change == "name":
            path.rename(folder / "images/11.png")
            (folder / "masks/9.png").rename(folder / "masks/11.png")
        else:
            os.utime(path, ns=(stamp, stamp + 1))
        decoded.clear()
        found = load(source, 8, tmp_path)
        assert decoded
        same(found, load(source, 8))

    def test_each_set_size_and_number_of_classes_has_its_own(
        self, processed: Callable[..., str], tmp_path: Path
    ) -> None:
        source = processed()
        place = Path(source.partition(":")[2])
        shutil.copytree(place, tmp_path / "MSD" / place.name)
        asked = [
            (source, None, 1),
            (source, 4, 1),
            (source, 4, 2),
            (f"processed:{tmp_path / 'MSD' / place.name}", 4, 1),
        ]
        for source, size, classes in asked:
            load(source, size, tmp_path / "cache", classes)
        assert len(list((tmp_path / "cache").iterdir())) == 4

    @pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
    def test_a_damaged_one_is_made_anew(
        self, folder: Path, tmp_path: Path, decoded: list[Path], damage: str
    ) -> None:
        source, cache = f"dsb2018:{folder}", tmp_path / "cache"
        expected = load(source, 8, cache)
        (path,) = cache.iterdir()
        content = bytearray(path.read_bytes())
        if damage == "cut":
            content = content[:-200]
        elif damage == "flipped":
            content[content.index(expected.masks.tobytes()) + 17] ^= 1
        else:
            content = bytearray()
        path.write_bytes(content)
        decoded.clear()
        same(load(source, 8, cache), expected)
        assert decoded
        decoded.clear()
        load(source, 8, cache)
        assert not decoded

    def test_a_file_where_the_folder_should_be(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "cache").touch()
        refused("cannot be kept there", f"dsb2018:{folder}", cache=tmp_path / "cache")


class TestSynthetic:
    """The drawn set."""

    def test_what_it_holds(self) -> None:
        samples = load(None, 32)
        assert samples.source == "synthetic"
        assert samples.images.shape == (120, 32, 32, 3)
        assert samples.masks.shape == (120, 32, 32, 1)
        assert samples.images.dtype == samples.masks.dtype == np.uint8
        assert samples.cases == samples.names
        assert len(set(samples.names)) == len({image.tobytes() for image in samples.images}) == 120
        share = samples.masks.mean((1, 2, 3))
        assert set(np.unique(samples.masks)) == {0, 1}
        assert share.min() > 0.01
        assert share.max() < 0.6

    def test_its_own_name_asks_for_it(self) -> None:
        same(load("synthetic", 8), load(None, 8))
        assert load(None).images.shape == (120, 64, 64, 3)

    def test_the_seed_decides(self) -> None:
        first, again, other = (data.synthetic(16, 5, seed) for seed in (3, 3, 4))
        same(first, again)
        assert (first.images != other.images).mean() > 0.9

    def test_a_threshold_does_not_find_the_ellipses_but_their_surroundings_help(self) -> None:
        """Best Dice of a threshold on the brightness, and on what is brighter than around it."""
        samples = data.synthetic(64, 40)
        grey = samples.images.astype(float).mean(-1)
        truth = samples.masks[..., 0] == 1

        def smooth(images: Array, width: int) -> Array:
            kernel = np.exp(-((np.arange(64)[:, None] - np.arange(64)) ** 2) / (2 * width**2))
            kernel /= kernel.sum(1, keepdims=True)
            return kernel @ images @ kernel.T

        def best(scores: Array) -> float:
            dices = []
            for threshold in np.quantile(scores, np.linspace(0.4, 0.98, 30)):
                found = scores > threshold
                dices.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
            return max(dices)

        bright, contrast = best(grey), best(smooth(grey, 1) - smooth(grey, 12))
        assert bright < 0.55, (bright, contrast)
        assert bright + 0.08 < contrast < 0.75, (bright, contrast)


DATA = os.environ.get("SEGACT_DATA")


@pytest.mark.skipif(not DATA, reason="SEGACT_DATA is not set")
class TestReal:
    """The nuclei and the vessels themselves."""

    def test_nuclei(self) -> None:
        source = f"dsb2018:{Path(str(DATA)) / 'dsb2018_96'}"
        samples = load(source)
        assert samples.images.shape == (670, 96, 96, 3)
        assert samples.masks.shape == (670, 96, 96, 1)
        assert set(np.unique(samples.masks)) == {0, 1}
        assert samples.masks.mean() == pytest.approx(0.13773, abs=1e-5)
        assert [len(validation) for _, validation in folds(samples.cases, 5)] == [134] * 5

    def test_nuclei_as_jpeg(self, tmp_path: Path) -> None:
        """Some of the masks enlarged to Kvasir's size and kept as JPEG, as Kvasir's are."""
        expected = []
        for path in sorted((Path(str(DATA)) / "dsb2018_96/masks").iterdir())[::20]:
            with Image.open(path) as file:
                mask = np.asarray(file) > 127
            mask = mask.repeat(6, 0).repeat(6, 1)
            expected.append(mask)
            save(tmp_path / "masks" / f"{path.stem}.jpg", np.uint8(255) * mask, quality=60)
            save(tmp_path / "images" / f"{path.stem}.jpg", np.zeros((*mask.shape, 3), np.uint8))
        samples = load(f"kvasir:{tmp_path}")
        by_name = dict(zip(samples.cases, samples.masks[..., 0], strict=True))
        found = np.stack([by_name[name] for name in sorted(by_name)])
        assert (found != np.stack(expected)).mean() < 1e-3

    def test_photographs_are_no_masks(self, tmp_path: Path) -> None:
        image = Path(str(DATA)) / "DRIVE/test/images/01_test.tif"
        for place in ("images", "masks"):
            (tmp_path / place).mkdir()
            shutil.copy(image, tmp_path / place)
        refused(r"masks/01_test\.tif: not a binary mask", f"kvasir:{tmp_path}")

    def test_vessels(self) -> None:
        samples = load(f"drive:{Path(str(DATA)) / 'DRIVE'}")
        assert samples.images.shape == (40, 584, 565, 3)
        assert samples.cases[0] == "test/01"
        assert samples.cases[-1] == "training/40"
        assert (samples.masks == IGNORE).mean() == pytest.approx(0.3121, abs=1e-4)
        assert (samples.masks == 1).mean() == pytest.approx(0.08691, abs=1e-5)
        assert padded(samples, 16).images.shape == (40, 592, 576, 3)
