"""Download a file with a known SHA-256, and unpack an archive that is not trusted.

The part of an interrupted download is kept without a note of its source: in the end the digest
shows whether the pieces belong together. If they do not, the download starts again, once.
"""

import hashlib
import os
import re
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PureWindowsPath
from typing import NoReturn

from examples.common.progress import progress_display

LARGEST = 1 << 30
"""The largest number of bytes of a download, and of the files of one archive."""
MOST_MEMBERS = 100_000
_CHUNK = 1 << 16


class FetchError(ValueError):
    """A file that cannot be downloaded or unpacked; the message is one line."""


def check_sha256(sha256: str) -> str:
    """The digest in lower case; raises `FetchError` unless it is 64 hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise FetchError(f"sha256: {sha256!r}; wanted 64 hexadecimal digits")
    return sha256.lower()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, path: Path, sha256: str, timeout: float = 30.0) -> None:
    """Download a file over HTTP, with a progress bar; `path` changes only if all succeeds.

    An interrupted download is kept as `.part` in the same folder, and the next call continues it if
    the server supports that. Nothing is kept of a file with another digest, of one above 1 GiB, or
    if the disk is full; nothing is downloaded if `path` is already that file. `timeout` (seconds)
    is for the connection and for each wait.

    Raises `FetchError`; and `KeyboardInterrupt` with a line that says what is kept.
    """
    sha256 = check_sha256(sha256)
    if not url.startswith(("http://", "https://")):
        raise FetchError(f"{url}: wanted an address that starts with https:// or http://")
    if path.exists() and _sha256(path) == sha256:
        return
    part = path.with_name(f"{path.name}.part")
    attempts = 2 if part.exists() else 1  # the pieces may be from two different files
    for _ in range(attempts):
        _Download(url, part, timeout).run()
        found = _sha256(part)
        if found == sha256:
            os.replace(part, path)
            return
        part.unlink()
    raise FetchError(f"{url}: its SHA-256 is {found}; wanted {sha256}; nothing is kept")


def _reason(error: BaseException) -> str:
    """The reason of an error, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {error.reason}"
    inner = getattr(error, "reason", error)  # urllib wraps the error of the socket
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    if isinstance(inner, OSError) and inner.strerror:
        return str(inner.strerror)
    return " ".join(str(inner).split()) or type(inner).__name__


class _Download:
    """One attempt to download what `part` lacks of a file."""

    def __init__(self, url: str, part: Path, timeout: float) -> None:
        self.url, self.part, self.timeout = url, part, timeout
        self.done = part.stat().st_size if part.exists() else 0

    def run(self) -> None:
        """Download; raises `FetchError`, and `KeyboardInterrupt` that says what is kept."""
        try:
            with self._network():
                answer = self._ask()
            if answer is None:
                return
            with answer:
                self._write(answer)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{self.url}: interrupted{self._kept()}") from None
        except OSError as error:  # from the file: errors of the network are FetchErrors
            self._drop(f"{self.part}: cannot be written; {_reason(error)}")

    def _ask(self) -> HTTPResponse | None:
        """The server's answer; None if `part` is already complete."""
        request = urllib.request.Request(self.url)
        if self.done:
            request.add_header("Range", f"bytes={self.done}-")
        try:
            answer: HTTPResponse = urllib.request.urlopen(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            error.close()  # it is the server's answer too, and holds the connection
            if error.code == 416 and self.done:
                return None
            raise
        return answer

    def _write(self, answer: HTTPResponse) -> None:
        """Append the answer, or start again if the server sends the file from its start."""
        if answer.status == 206:
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {self.done}-"):
                self._drop(f"{self.url}: the server sent another part than it was asked for")
        else:
            self.done = 0
        missing = answer.length
        total = None if missing is None else self.done + missing
        with (
            self.part.open("ab" if self.done else "wb") as file,
            progress_display(of_bytes=True) as progress,
        ):
            task = progress.add_task("fetching", total=total, completed=self.done)
            for chunk in self._chunks(answer, total):
                file.write(chunk)
                file.flush()
                progress.advance(task, len(chunk))

    def _chunks(self, answer: HTTPResponse, total: int | None) -> Iterator[bytes]:
        while True:
            if max(total or 0, self.done) > LARGEST:
                self._drop(f"{self.url}: larger than {LARGEST} bytes")
            with self._network():
                chunk = answer.read1(_CHUNK)  # what has arrived, without waiting for more
            if not chunk:
                break
            self.done += len(chunk)
            yield chunk
        if total is not None and self.done < total:
            raise FetchError(f"{self.url}: the connection was cut{self._kept()}")

    @contextmanager
    def _network(self) -> Iterator[None]:
        try:
            yield
        except (OSError, HTTPException, ValueError) as error:
            raise FetchError(f"{self.url}: {_reason(error)}{self._kept()}") from error

    def _kept(self) -> str:
        if not self.done:
            self.part.unlink(missing_ok=True)
            return ""
        return f"; {self.done} bytes are kept in {self.part}, the same command continues from there"

    def _drop(self, line: str) -> NoReturn:
        with suppress(OSError):
            self.part.unlink()
        raise FetchError(f"{line}; nothing is kept")


@contextmanager
def unpacked(archive: Path, folder: Path) -> Iterator[Path]:
    """Unpacks a zip archive into a folder of its own inside `folder`; it is removed at the end.

    The caller renames what it needs to its final place, whole. Raises `FetchError`: not a zip
    archive, a damaged or an encrypted one, one that names paths outside of its folder or holds
    links, one of more than 1 GiB or 100,000 files, a full disk.
    """
    # a fixed name: a call clears what a killed one has left
    target = folder / f".{archive.name}.unpacked"
    try:
        if target.exists():
            shutil.rmtree(target)
        _unpack(archive, target)
        yield target
    except OSError as error:
        raise FetchError(f"{archive}: cannot be unpacked; {_reason(error)}") from error
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _unpack(archive: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
            _check_members(archive, members)
            with progress_display() as progress:
                for member in progress.track(members, description="unpacking"):
                    file.extract(member, target)
    except (OSError, FetchError):
        raise
    except Exception as error:  # zipfile, zlib, bz2 and lzma raise many kinds of errors
        raise FetchError(f"{archive}: not a zip archive, or damaged ({_reason(error)})") from error


def _check_members(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse paths outside of the folder, and too much data; zipfile enforces the named sizes."""
    if len(members) > MOST_MEMBERS:
        raise FetchError(f"{archive}: holds {len(members)} files; wanted {MOST_MEMBERS} at most")
    size = sum(member.file_size for member in members)
    if size > LARGEST:
        raise FetchError(f"{archive}: unpacks to {size} bytes; wanted {LARGEST} at most")
    for member in members:
        path = PureWindowsPath(member.filename)  # knows all separators, and drives
        if path.anchor or ".." in path.parts:
            raise FetchError(f"{archive}: {member.filename!r} would leave the folder")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise FetchError(f"{archive}: {member.filename!r} is a link or a device")
