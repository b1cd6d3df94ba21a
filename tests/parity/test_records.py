"""Records on disk: what is refused, and that nothing is half-written."""

import errno
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from parity.accuracy.measurement import compare
from parity.reference import REFERENCE_PATH
from parity.suite import records
from parity.suite.case import Case
from parity.suite.cases import judged_cases, standard_cases
from parity.suite.records import Record, RecordError, RecordWriter

CASE = Case("tiny", "float32", "arctan", "cdf")


def small_record(path: Path, value: float = 0.5) -> Path:
    """A record of one case."""
    writer = RecordWriter("torch", "cpu")
    x = np.zeros((1, 2), np.float32)
    writer.add_inputs("tiny-float32", {"x": x})
    writer.add(CASE, {"value": x + np.float32(value), "grad_x": x})
    writer.write(path)
    return path


def rewritten(path: Path, **header: str | None) -> Path:
    """The small record with another header."""
    fields = {
        "format": f"segact-parity {records.FORMAT}",
        "implementation": "torch",
        "device": "cpu",
        "seed": "1",
        "platform": "here",
        "versions": "{}",
        **header,
    }
    tensors = load_file(small_record(path))
    save_file(tensors, path, metadata={k: v for k, v in fields.items() if v is not None})
    return path


def test_round_trip(tmp_path: Path) -> None:
    record = Record.load(small_record(tmp_path / "a"))
    assert record.result(CASE)["value"].tolist() == [[0.5, 0.5]]
    assert record.inputs("tiny-float32")["x"].shape == (1, 2)
    assert record.implementation == "torch"
    assert record.device == "cpu"
    assert {"python", "numpy"} <= record.versions.keys()


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_is_refused(tmp_path: Path, keep: int) -> None:
    path = small_record(tmp_path / "a")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RecordError, match="a: truncated or not a safetensors file"):
        Record.load(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such record"):
        Record.load(tmp_path / "absent")
    with pytest.raises(RecordError, match="no such record"):
        Record.load(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("not a record at all, only words " * 10)
    with pytest.raises(RecordError, match=r"notes\.txt: truncated or not"):
        Record.load(text)
    save_file({"weight": np.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(RecordError, match="not a record of segact-parity"):
        Record.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": "segact-parity 999"}, "record format 999, this is format"),
        ({"format": "other 1"}, "not a record of segact-parity"),
        ({"device": None, "seed": None}, "header lacks device, seed"),
        ({"versions": "{"}, "versions"),
        ({"versions": "[1]"}, "versions"),
    ],
)
def test_bad_headers_are_refused(tmp_path: Path, header: dict[str, str], message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        Record.load(rewritten(tmp_path / "a", **header))
    assert "\n" not in str(caught.value)


def test_numbers_that_numpy_does_not_have_are_refused(tmp_path: Path) -> None:
    path = small_record(tmp_path / "a")
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    place = header[f"{CASE.name}/value"]
    place |= {"dtype": "F8_E4M3", "shape": [int(np.diff(place["data_offsets"])[0])]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    with pytest.raises(RecordError, match=r"tiny-float32/arctan/cdf/value cannot be read \("):
        Record.load(path).tensor(f"{CASE.name}/value")
    writer = RecordWriter("torch", "cpu")
    writer.tensors["a"] = np.ones(2, np.complex64)
    writer.write(path)
    with pytest.raises(RecordError, match="a: a is complex64; wanted real numbers"):
        Record.load(path).tensor("a")


def test_other_cases_are_refused(tmp_path: Path) -> None:
    record, reference = Record.load(small_record(tmp_path / "a")), Record.load(REFERENCE_PATH)
    with pytest.raises(RecordError, match=rf"a: other cases; {len(judged_cases())} are missing"):
        compare(record, reference)
    with pytest.raises(RecordError, match="holds no"):
        record.result(standard_cases()[0])


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    one = small_record(tmp_path / "a")
    tensors = load_file(one)
    tensors["inputs/tiny-float32/x"] += 1
    header = {"versions": "{}", "implementation": "torch", "device": "cpu"}
    header |= {"seed": "1", "platform": "", "format": f"segact-parity {records.FORMAT}"}
    save_file(tensors, tmp_path / "b", metadata=header)
    with pytest.raises(RecordError, match="the inputs of tiny-float32 differ"):
        compare(Record.load(one), Record.load(tmp_path / "b"), [CASE])


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_record(tmp_path / "a", 0.25)
    before = path.read_bytes()

    class FullDisk(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError("disk full")

    monkeypatch.setattr("os.fdopen", lambda handle, mode: FullDisk())
    with pytest.raises(OSError, match="disk full"):
        small_record(path, 0.75)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_atomic_write_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    records.write_atomically(path, b"first")

    def fail(*arguments: object) -> None:
        raise OSError("no rename")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no rename"):
        records.write_atomically(path, b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_perfect_records_compare_with_each_other(perfect_record: Callable[..., Path]) -> None:
    one = Record.load(perfect_record("torch"))
    two = Record.load(perfect_record("keras-jax"))
    found = compare(one, two)
    assert found
    assert all(m.error == 0 for m in found)


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder" / "target"
    target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(target)
    records.write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_device_is_written_to() -> None:
    null = Path("/dev/null")
    records.write_atomically(null, b"gone")
    assert null.is_char_device()


def test_what_cannot_be_written_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "none" / "report.json"
    with pytest.raises(FileNotFoundError) as found:
        records.write_atomically(nowhere, b"")
    assert found.value.filename == str(nowhere)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left") as found:
        records.write_atomically(tmp_path / "report.json", b"")
    assert found.value.filename == str(tmp_path / "report.json")
    assert not list(tmp_path.iterdir())
