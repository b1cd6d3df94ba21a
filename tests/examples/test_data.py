"""Images from folders, drawn ones, and the file that keeps the decoded ones."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the examples' own needs are not installed")
pytest.importorskip("rich")

from PIL import Image

from examples.cats_vs_dogs import data
from examples.cats_vs_dogs.data import DataError, load, synthetic
from examples.common.images import natural

NAMES = {
    "train/cats": ["cat.10.png", "cat.9.jpg", "cat.2.jpeg"],
    "train/dogs": ["dog.1.jpg", "dog.01.jpg"],
    "validation/cats": ["a.png"],
    "validation/dogs": ["b.png", "c.PNG", "a10b2.png", "a10b10.png", "a9.png"],
}


def picture(seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    shape = (*size[::-1], len(mode)) if len(mode) > 1 else size[::-1]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small set laid out as wanted; every image differs."""
    root = tmp_path / "set"
    for number, (place, names) in enumerate(NAMES.items()):
        (root / place).mkdir(parents=True)
        for i, name in enumerate(names):
            picture(100 * number + i).save(root / place / name)
    return root


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; only root may mount one."""
    place = tmp_path / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_natural_order_labels_and_names(folder: Path) -> None:
    train, validation = load(folder, 8)
    assert train.names == [
        "train/cats/cat.2.jpeg",
        "train/cats/cat.9.jpg",
        "train/cats/cat.10.png",
        "train/dogs/dog.01.jpg",
        "train/dogs/dog.1.jpg",
    ]
    assert [Path(name).name for name in validation.names] == [
        "a.png",
        "a9.png",
        "a10b2.png",
        "a10b10.png",
        "b.png",
        "c.PNG",
    ]
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert validation.labels.tolist() == [0, 1, 1, 1, 1, 1]
    assert train.images.shape == (5, 8, 8, 3)
    assert train.images.dtype == train.labels.dtype == np.uint8


def test_equal_numbers_have_an_order_too() -> None:
    for names in (["1.7", "1.07"], ["1.07", "1.7"]):
        assert sorted(names, key=natural) == ["1.07", "1.7"]


def test_images_are_those_of_their_names(folder: Path) -> None:
    _, validation = load(folder, 16)
    for name, image in zip(validation.names, validation.images, strict=True):
        with Image.open(folder / name) as file:
            expected = file.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image, np.asarray(expected), err_msg=name)


def test_the_right_size_is_left_as_it_is(folder: Path) -> None:
    square = picture(1, (12, 12))
    square.save(folder / "train/dogs/dog.1.png")
    train, _ = load(folder, 12)
    index = train.names.index("train/dogs/dog.1.png")
    np.testing.assert_array_equal(train.images[index], np.asarray(square))


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_other_pixels_become_rgb(folder: Path, mode: str) -> None:
    image = picture(3, (12, 12), mode)
    image.save(folder / "train/dogs/dog.1.png")
    train, _ = load(folder, 12)
    found = train.images[train.names.index("train/dogs/dog.1.png")]
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


def test_sixteen_bits_are_refused(folder: Path) -> None:
    Image.fromarray(np.full((9, 9), 3000, np.uint16)).save(folder / "train/dogs/dog.7.png")
    with pytest.raises(DataError, match=r"dog\.7\.png: I;16 pixels; wanted 8 bits") as error:
        load(folder, 8)
    one_line(error)


def test_what_file_managers_leave_is_no_image(folder: Path) -> None:
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._cat.2.jpeg"):
        (folder / "train/cats" / name).write_bytes(b"\0nothing")
    assert len(load(folder, 8)[0].names) == 5


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder") as error:
        load(tmp_path / "nowhere", 8)
    one_line(error)


def test_a_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: not a folder; wanted one with train/cats"):
        load(tmp_path / "file", 8)


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_class_says_what_is_there(folder: Path, missing: str) -> None:
    shutil.rmtree(folder / missing)
    with pytest.raises(DataError, match=f"set: no folder {missing} in it; wanted train/cats") as e:
        load(folder, 8)
    assert one_line(e).endswith("found train, validation")


def test_the_folder_above_is_told_from_a_wrong_one(folder: Path) -> None:
    with pytest.raises(DataError, match=f"did you mean {folder}") as error:
        load(folder.parent, 8)
    one_line(error)


@pytest.mark.parametrize("left", [[], ["Thumbs.db", ".hidden.png"]])
def test_an_empty_class(folder: Path, left: list[str]) -> None:
    shutil.rmtree(folder / "validation/cats")
    (folder / "validation/cats").mkdir()
    for name in left:
        (folder / "validation/cats" / name).touch()
    with pytest.raises(DataError, match="validation/cats: no images in this folder") as error:
        load(folder, 8)
    one_line(error)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_named(folder: Path, share: float, progressive: bool) -> None:
    path = folder / "train/dogs/dog.77.jpg"
    picture(5, (64, 64)).save(path, "JPEG", quality=90, progressive=progressive)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"dog\.77\.jpg: (a damaged image|not an image)") as error:
        load(folder, 8)
    one_line(error)


def test_a_png_with_a_blank_end_is_named(folder: Path) -> None:
    path = folder / "train/dogs/dog.77.png"
    y, x = np.mgrid[:64, :64]
    Image.fromarray(np.stack([3 * x, 3 * y, x * y % 251], 2).astype(np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes(30))
    with Image.open(path) as image:
        image.load()  # Pillow decodes that without a word
    with pytest.raises(DataError, match=r"dog\.77\.png: a damaged image") as error:
        load(folder, 8)
    one_line(error)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 nor this"])
def test_a_file_that_is_no_image_is_named(folder: Path, content: bytes) -> None:
    (folder / "train/cats/notes.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"train/cats/notes\.jpg: (not an|a damaged) image") as e:
        load(folder, 8)
    assert "more" not in one_line(e)


def test_all_bad_files_are_counted(folder: Path) -> None:
    for name in ("train/cats/cat.9.jpg", "train/dogs/dog.1.jpg", "validation/dogs/b.png"):
        (folder / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cat\.9\.jpg: not an image; 2 more cannot be used"):
        load(folder, 8)


def test_a_folder_among_the_images_is_named(folder: Path) -> None:
    (folder / "train/cats/more").mkdir()
    with pytest.raises(DataError, match="train/cats/more: cannot be read; Is a directory"):
        load(folder, 8)


@pytest.mark.parametrize("size", [0, -3, True, 8.0])
def test_sizes_that_cannot_be(folder: Path, size: int) -> None:
    for where in (folder, None):
        with pytest.raises(DataError, match="size: "):
            load(where, size)


class TestCache:
    """The file of decoded images."""

    @pytest.fixture
    def decoded(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        """The images that were decoded, one by one."""
        seen: list[Path] = []
        original = data._decode_one

        def counted(path: Path, size: int) -> np.ndarray:
            seen.append(path)
            return original(path, size)

        monkeypatch.setattr(data, "_decode_one", counted)
        return seen

    def test_it_gives_the_same_and_decodes_nothing(
        self, folder: Path, tmp_path: Path, decoded: list[Path]
    ) -> None:
        first = load(folder, 8, tmp_path / "new" / "cache")
        assert len(decoded) == 11
        second = load(folder, 8, tmp_path / "new" / "cache")
        assert len(decoded) == 11
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a.images, b.images)
            np.testing.assert_array_equal(a.labels, b.labels)
            assert a.names == b.names
        assert [path.name for path in (tmp_path / "new/cache").iterdir()] == ["set_8.npz"]

    @pytest.mark.parametrize("change", ["content", "name", "one more", "time"])
    def test_other_files_make_it_anew(
        self, folder: Path, tmp_path: Path, decoded: list[Path], change: str
    ) -> None:
        load(folder, 8, tmp_path)
        path = folder / "train/dogs/dog.1.jpg"
        stamp = path.stat().st_mtime_ns
        if change == "content":
            picture(99, (20, 20)).save(path)
            os.utime(path, ns=(stamp, stamp))
        elif change == "name":
            path.rename(path.with_name("dog.5.jpg"))
        elif change == "one more":
            shutil.copy2(path, path.with_name("dog.5.jpg"))
        else:
            os.utime(path, ns=(stamp + 1, stamp + 1))
        decoded.clear()
        found = load(folder, 8, tmp_path)
        assert decoded
        for a, b in zip(found, load(folder, 8), strict=True):
            np.testing.assert_array_equal(a.images, b.images)
            assert a.names == b.names

    def test_another_size_has_its_own(self, folder: Path, tmp_path: Path) -> None:
        load(folder, 8, tmp_path)
        assert load(folder, 9, tmp_path)[0].images.shape == (5, 9, 9, 3)
        assert load(folder, 8, tmp_path)[0].images.shape == (5, 8, 8, 3)

    @pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty"])
    def test_a_damaged_one_is_made_anew(
        self, folder: Path, tmp_path: Path, decoded: list[Path], damage: str
    ) -> None:
        expected = load(folder, 8, tmp_path)
        path = tmp_path / "set_8.npz"
        content = bytearray(path.read_bytes())
        if damage == "cut":
            content = content[:-200]
        elif damage == "flipped":  # one bit of one pixel
            content[content.index(expected[0].images.tobytes()) + 17] ^= 1
        else:
            content = bytearray(b"" if damage == "empty" else b"PK something else")
        path.write_bytes(content)
        decoded.clear()
        found = load(folder, 8, tmp_path)
        assert len(decoded) == 11
        np.testing.assert_array_equal(found[0].images, expected[0].images)
        decoded.clear()
        load(folder, 8, tmp_path)
        assert not decoded

    def test_a_full_disk(self, folder: Path, tiny_disk: Path) -> None:
        load(folder, 8, tiny_disk)  # which fits
        kept = (tiny_disk / "set_8.npz").read_bytes()
        with pytest.raises(DataError, match=r"set_120\.npz: .* No space left on device") as error:
            load(folder, 120, tiny_disk)
        one_line(error)
        assert [path.name for path in tiny_disk.iterdir()] == ["set_8.npz"]
        assert (tiny_disk / "set_8.npz").read_bytes() == kept

    def test_a_disk_that_fills_up_half_way(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def savez(file, **arrays):
            file.write(b"the first half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(np, "savez", savez)
        with pytest.raises(DataError, match="cannot be kept there; No space left on device"):
            load(folder, 8, tmp_path / "cache")
        assert not list((tmp_path / "cache").iterdir())

    def test_a_file_where_the_folder_should_be(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "cache").touch()
        with pytest.raises(DataError, match="cannot be kept there") as error:
            load(folder, 8, tmp_path / "cache")
        one_line(error)


class TestSynthetic:
    """The drawn set."""

    def test_what_it_holds(self) -> None:
        train, validation = load(None, 24)
        for split, count in ((train, 400), (validation, 200)):
            assert split.images.shape == (count, 24, 24, 3)
            assert split.images.dtype == split.labels.dtype == np.uint8
            assert split.labels.tolist() == [0] * (count // 2) + [1] * (count // 2)
            assert len(set(split.names)) == count
            assert all(name.startswith("synthetic/") for name in split.names)
            assert len({image.tobytes() for image in split.images}) == count

    def test_the_seed_decides(self) -> None:
        first, again, other = (synthetic(16, seed)[0].images for seed in (3, 3, 4))
        np.testing.assert_array_equal(first, again)
        assert (first != other).mean() > 0.9

    def test_it_can_be_learned_but_not_from_the_colour(self) -> None:
        """Least squares on small grey images tells most of them apart; mean colours do not."""

        def features(split: data.Split, pixels: bool) -> np.ndarray:
            images = split.images.astype(float) / 255
            found = images.mean(3).reshape(len(images), -1) if pixels else images.mean((1, 2))
            return np.concatenate([found, np.ones((len(found), 1))], 1)

        train, validation = synthetic(16)
        accuracy = {}
        for pixels in (True, False):
            x, y = features(train, pixels), train.labels - 0.5
            ridge = x.T @ x + 3.0 * np.eye(x.shape[1]) * pixels
            raw = features(validation, pixels) @ np.linalg.solve(ridge, x.T @ y)
            accuracy[pixels] = np.mean((raw > 0) == validation.labels)
        assert 0.75 < accuracy[True] < 0.99, accuracy
        assert accuracy[False] < 0.65, accuracy


DATA = os.environ.get("SEGACT_DATA")


@pytest.mark.skipif(not DATA, reason="SEGACT_DATA is not set")
def test_the_real_images(tmp_path: Path) -> None:
    train, validation = load(Path(str(DATA)) / "cats_and_dogs_filtered", 32)
    assert train.labels.tolist() == [0] * 999 + [1] * 1000
    assert validation.labels.tolist() == [0] * 500 + [1] * 500
    assert train.names[459] == "train/cats/cat.460.jpg"
    assert validation.names[-1] == "validation/dogs/dog.2499.jpg"
