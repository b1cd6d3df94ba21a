"""The download, against a server on this machine: whole, cut, resumed, wrong and harmful."""

import contextlib
import gc
import hashlib
import io
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the examples' own needs are not installed")
pytest.importorskip("rich")

from PIL import Image

from examples.cats_vs_dogs.data import DataError, load
from examples.cats_vs_dogs.download import SHA256, URL, download
from examples.common import fetch as fetching

ROOT = Path(__file__).parents[2]


@dataclass
class Site:
    """What the server has and how it behaves; `asked` holds the Range header of each request."""

    content: bytes
    ranges: bool = True
    cut_after: int | None = None
    stall_after: int | None = None
    status: int = 200
    length: bool = True
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and site.ranges else 0
            if site.status != 200:
                self.send_error(site.status)
                return
            if start and start >= len(site.content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                end = len(site.content) - 1
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(site.content)}")
            if site.length:
                self.send_header("Content-Length", str(len(site.content) - start))
            self.end_headers()
            self._send(site.content[start:])

        def _send(self, body: bytes) -> None:
            stop = site.cut_after if site.stall_after is None else site.stall_after
            with contextlib.suppress(OSError):
                self.wfile.write(body if stop is None else body[:stop])
                self.wfile.flush()
                if site.stall_after is not None:
                    self.connection.recv(1)  # until the client has gone

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


def archive(extra: dict[str, bytes] | None = None, top: str = "cats_and_dogs_filtered/") -> bytes:
    """A set like the public one, but small."""
    rng = np.random.default_rng(4)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{top}vectorize.py", "pass\n")
        for split in ("train", "validation"):
            for i, name in enumerate(("cat", "dog")):
                image = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (90, 90, 3), np.uint8)).save(image, "PNG")
                file.writestr(f"{top}{split}/{name}s/{name}.{i}.png", image.getvalue())
        for path, text in (extra or {}).items():
            file.writestr(path, text)
    return content.getvalue()


ARCHIVE = archive()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    """A server with the small archive."""
    site = Site(ARCHIVE)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}/set.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def connections_are_closed() -> Iterator[None]:
    """Fails a test that leaves a connection to the garbage collector."""
    gc.collect()  # what other tests have left
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        gc.collect()  # pytest makes an error of what cannot be raised there


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the images are to go."""
    return tmp_path / "data" / "pets"


def refused(site: Site, folder: Path, sha256: str = "", timeout: float = 10.0) -> str:
    """The line of the error."""
    with pytest.raises(DataError) as error:
        download(folder, site.url, sha256 or digest(site.content), timeout)
    line = str(error.value)
    assert "\n" not in line
    return line


def left(folder: Path) -> list[str]:
    """What lies where the folder was to be, by name."""
    return sorted(path.name for path in folder.parent.iterdir())


def part(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{digest(ARCHIVE)[:8]}.zip.part")


def test_the_whole_way(site: Site, folder: Path) -> None:
    download(folder, site.url, digest(ARCHIVE).upper())
    assert left(folder) == ["pets"]
    train, validation = load(folder, 8)
    assert train.names == ["train/cats/cat.0.png", "train/dogs/dog.1.png"]
    assert len(validation.names) == 2
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask


def test_what_is_there_is_not_fetched_again(site: Site, folder: Path) -> None:
    for _ in range(2):
        download(folder, site.url, digest(ARCHIVE))
    assert site.asked == [None]


def test_an_archive_without_a_folder_around_it(site: Site, folder: Path) -> None:
    site.content = archive(top="")
    folder.mkdir(parents=True)  # an empty one is as good as none
    download(folder, site.url, digest(site.content))
    assert left(folder) == ["pets"]
    assert len(load(folder, 8)[0].names) == 2


def test_a_server_that_tells_no_length(site: Site, folder: Path) -> None:
    site.length = False
    download(folder, site.url, digest(ARCHIVE))
    assert left(folder) == ["pets"]


@pytest.mark.usefixtures("connections_are_closed")
def test_a_cut_connection_is_gone_on_with(site: Site, folder: Path) -> None:
    site.cut_after = 30_000
    line = refused(site, folder)
    assert line.endswith(
        f"the connection was cut; 30000 bytes are kept in {part(folder)}, "
        "the same command continues from there"
    )
    assert left(folder) == [part(folder).name]
    assert part(folder).read_bytes() == ARCHIVE[:30_000]
    refused(site, folder)
    assert part(folder).read_bytes() == ARCHIVE[:60_000]
    site.cut_after = None
    download(folder, site.url, digest(ARCHIVE))
    assert site.asked == [None, "bytes=30000-", "bytes=60000-"]
    assert left(folder) == ["pets"]
    assert len(load(folder, 8)[0].names) == 2


def test_a_server_without_ranges_sends_it_anew(site: Site, folder: Path) -> None:
    site.ranges, site.cut_after = False, 30_000
    refused(site, folder)
    site.cut_after = None
    download(folder, site.url, digest(ARCHIVE))
    assert site.asked == [None, "bytes=30000-"]
    assert left(folder) == ["pets"]


def test_a_part_of_another_file_is_dropped(site: Site, folder: Path) -> None:
    folder.parent.mkdir()
    part(folder).write_bytes(b"x" * 1000)
    download(folder, site.url, digest(ARCHIVE))
    assert site.asked == ["bytes=1000-", None]
    assert left(folder) == ["pets"]


@pytest.mark.usefixtures("connections_are_closed")
@pytest.mark.parametrize("more", [b"", b"too long"])
def test_a_part_that_is_whole(site: Site, folder: Path, more: bytes) -> None:
    folder.parent.mkdir()
    part(folder).write_bytes(ARCHIVE + more)
    download(folder, site.url, digest(ARCHIVE))
    assert site.asked == [f"bytes={len(ARCHIVE + more)}-", *([None] if more else [])]
    assert left(folder) == ["pets"]


def test_a_wrong_digest_keeps_nothing(site: Site, folder: Path) -> None:
    line = refused(site, folder, "0" * 64)
    assert line.endswith(f"its SHA-256 is {digest(ARCHIVE)}; wanted {'0' * 64}; nothing is kept")
    assert left(folder) == []


@pytest.mark.parametrize("sha256", ["", "12ab", "g" * 64])
def test_no_digest(site: Site, folder: Path, sha256: str) -> None:
    with pytest.raises(DataError, match=r"sha256: .*; wanted 64 hexadecimal digits"):
        download(folder, site.url, sha256)
    assert site.asked == []


def test_the_digest_of_the_public_archive_is_one() -> None:
    assert fetching.check_sha256(SHA256) == SHA256
    assert URL.startswith("https://")


@pytest.mark.usefixtures("connections_are_closed")
@pytest.mark.parametrize("status", [404, 503])
def test_an_error_of_the_server(site: Site, folder: Path, status: int) -> None:
    site.status = status
    assert f"{site.url}: the server says {status} " in refused(site, folder)
    assert left(folder) == []


def test_no_server(site: Site, folder: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        site.url = f"http://127.0.0.1:{unused.getsockname()[1]}/set.zip"
        assert refused(site, folder) == f"{site.url}: Connection refused"
    assert left(folder) == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "set.zip", "ftp://127.0.0.1/set.zip"])
def test_other_addresses(folder: Path, url: str) -> None:
    with pytest.raises(DataError, match="wanted an address that starts with https"):
        download(folder, url, "0" * 64)
    assert left(folder) == []


@pytest.mark.usefixtures("connections_are_closed")
def test_a_server_that_falls_silent(site: Site, folder: Path) -> None:
    site.stall_after = 80_000
    line = refused(site, folder, timeout=0.3)
    assert "no answer in time" in line
    assert "; 80000 bytes are kept in" in line
    assert part(folder).read_bytes() == ARCHIVE[:80_000]


def test_one_killed_while_unpacking_leaves_no_litter(site: Site, folder: Path) -> None:
    folder.parent.mkdir()
    archive = part(folder).with_suffix("")
    archive.write_bytes(ARCHIVE)
    stale = folder.parent / f".{archive.name}.unpacked/cats_and_dogs_filtered/train/cats"
    stale.mkdir(parents=True)
    (stale / "half.png").write_bytes(b"half")
    download(folder, site.url, digest(ARCHIVE))
    assert site.asked == []
    assert left(folder) == ["pets"]
    assert not list(folder.rglob("half.png"))


def test_ctrl_c_says_what_is_kept(site: Site, folder: Path) -> None:
    site.stall_after = 80_000
    code = (
        "import sys; from pathlib import Path\n"
        "from examples.cats_vs_dogs.download import download\n"
        "try: download(Path(sys.argv[1]), sys.argv[2], sys.argv[3])\n"
        "except KeyboardInterrupt as error: print(error)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), site.url, digest(ARCHIVE)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # a shell starts what it runs in the background deaf to it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(1500):
        if part(folder).exists() and part(folder).stat().st_size:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    line, _ = process.communicate(timeout=30)
    kept = part(folder).read_bytes()
    assert line.startswith(f"{site.url}: interrupted; {len(kept)} bytes are kept in")
    assert kept
    assert ARCHIVE.startswith(kept)


@pytest.mark.usefixtures("connections_are_closed")
def test_a_file_that_is_too_large(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "LARGEST", 80_000)
    for site.length in (True, False):
        assert "larger than 80000 bytes; nothing is kept" in refused(site, folder)
        assert left(folder) == []


def test_a_folder_with_something_else(site: Site, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    assert "pets: holds something else" in refused(site, folder)
    assert site.asked == []
    assert left(folder) == ["pets"]


@pytest.mark.parametrize(
    "path",
    ["../../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"],
)
def test_members_that_leave_the_folder(site: Site, folder: Path, path: str) -> None:
    site.content = archive({path: b"evil"})
    assert "would leave the folder" in refused(site, folder)
    assert left(folder) == []
    assert not list(folder.parent.parent.rglob("*evil*"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO])
def test_links_and_devices(site: Site, folder: Path, kind: int) -> None:
    content = io.BytesIO(ARCHIVE)
    with zipfile.ZipFile(content, "a") as file:
        member = zipfile.ZipInfo("train/link")
        member.create_system, member.external_attr = 3, (kind | 0o777) << 16
        file.writestr(member, "/etc")
    site.content = content.getvalue()
    assert "'train/link' is a link or a device" in refused(site, folder)
    assert left(folder) == []


def test_an_archive_that_would_fill_the_disk(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.content = archive({"zeros": bytes(1_000_000)})
    monkeypatch.setattr(fetching, "LARGEST", 500_000)
    assert len(site.content) < 500_000
    assert "unpacks to 1" in refused(site, folder)
    monkeypatch.setattr(fetching, "LARGEST", 5_000_000)
    monkeypatch.setattr(fetching, "MOST_MEMBERS", 3)
    assert "holds 6 files; wanted 3 at most" in refused(site, folder)
    assert left(folder) == []


def test_a_member_larger_than_it_says(site: Site, folder: Path) -> None:
    """The size that the limit is held against is also what zipfile reads at most."""
    content = bytearray(archive({"zeros": bytes(1_000_000)}))
    size = (1_000_000).to_bytes(4, "little")
    assert content.count(size) == 2  # in front of the file and in the directory
    site.content = bytes(content.replace(size, (10).to_bytes(4, "little")))
    assert "damaged" in refused(site, folder)
    assert left(folder) == []


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "not a zip archive, or damaged"),
        (b"<html>sign in</html>", "not a zip archive, or damaged"),
        (ARCHIVE[:-3000], "not a zip archive, or damaged"),
        (ARCHIVE[:500] + bytes(300) + ARCHIVE[800:], "not a zip archive, or damaged"),
    ],
)
def test_no_zip_archive(site: Site, folder: Path, content: bytes, line: str) -> None:
    site.content = content
    assert line in refused(site, folder)
    assert left(folder) == []


def test_an_archive_of_something_else(site: Site, folder: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("birds/1.jpg", "tweet")
    site.content = content.getvalue()
    assert "holds no train/cats" in refused(site, folder)
    assert left(folder) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB; only root may."""
    place = tmp_path / "tiny"
    place.mkdir()

    def mount(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("size", "line"),
    [(64, "cannot be written; No space left on device"), (160, "cannot be unpacked; No space")],
)
def test_a_full_disk(site: Site, disk: Callable[[int], Path], size: int, line: str) -> None:
    folder = disk(size) / "pets"
    assert len(ARCHIVE) > 90_000
    assert line in refused(site, folder)
    assert left(folder) == []
