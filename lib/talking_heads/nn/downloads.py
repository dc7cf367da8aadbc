"""Downloads that may be interrupted: the same call resumes where the last one stopped."""

import http.client
import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from talking_heads.files import appended, write_text
from talking_heads.progress import Progress

TIMEOUT = 60.0  # seconds without data from a server
BLOCK, MEGABYTE = 1 << 20, 1_000_000  # bytes
UNFINISHED, VALIDATOR = ".part", ".part.json"  # endings: of what has arrived, and of the ETag of its file


def download(url: str, path: Path) -> None:
    """Download a file, which appears at ``path`` by rename, with progress.

    Bytes that have arrived stay beside ``path``. The next call requests the rest if the server still has the
    same file (``ETag``), and else the whole file. Raises OSError where the server cannot be reached, or sends
    less than it announces.
    """
    unfinished = appended(path, UNFINISHED)
    start = unfinished.stat().st_size if unfinished.exists() else 0
    validator = _read_validator(path)
    headers = {"Range": f"bytes={start}-", "If-Range": validator} if start and validator else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            start = start if response.status == http.client.PARTIAL_CONTENT else 0
            rest = response.headers.get("Content-Length")
            write_text(appended(path, VALIDATOR), json.dumps(response.headers.get("ETag") or ""))
            with unfinished.open("ab" if start else "wb") as file:
                _write(response, file, path.name, int(rest) if rest else None)
    except urllib.error.HTTPError as error:
        complete = error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE
        if complete and start == _whole_size(error.headers.get("Content-Range", "")):
            return _finish(path)
        if complete:  # more has arrived than the file has
            unfinished.unlink()
            return download(url, path)
        raise OSError(f"{url}: the download failed ({error})") from error
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{url}: the download failed ({error}); the same command resumes it") from error
    size = unfinished.stat().st_size
    if rest and size != start + int(rest):
        raise OSError(f"{url}: {size} of {start + int(rest)} bytes arrived; the same command resumes it")
    return _finish(path)


def discard(path: Path) -> None:
    """Delete what has arrived of a file that should appear at ``path``."""
    for ending in (UNFINISHED, VALIDATOR):
        appended(path, ending).unlink(missing_ok=True)


def _finish(path: Path) -> None:
    appended(path, UNFINISHED).replace(path)
    discard(path)


def _read_validator(path: Path) -> str:
    """The ETag of the file that has arrived in part; empty where it is not known, or changes with nothing."""
    try:
        etag = json.loads(appended(path, VALIDATOR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return etag if isinstance(etag, str) and not etag.startswith("W/") else ""


def _whole_size(content_range: str) -> int | None:
    """The size of the whole file in the header of an answer 416."""
    match = re.fullmatch(r"bytes \*/(\d+)", content_range)
    return int(match[1]) if match else None


def _write(response: IO[bytes], file: IO[bytes], name: str, rest: int | None) -> None:
    """Write what a server sends, ``rest`` bytes where it announces them, to an open file."""
    progress, received = Progress(f"fetching {name}", (rest or 0) // MEGABYTE, "MB"), 0
    while block := response.read(BLOCK):
        file.write(block)
        received += len(block)
        if rest and received // MEGABYTE > progress.done:
            progress.add(received // MEGABYTE - progress.done)
