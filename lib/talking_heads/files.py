"""Writing files: they appear by rename, and never replace an input."""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from filelock import FileLock, Timeout

SIGKILL_STATUS = 137  # of a program one of whose processes was killed
SIGTERM_STATUS = 143  # of a program that SIGTERM ended after it had saved its state
WAITING = "another process works here; waiting for it"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def stated_causes(lines: Iterable[str]) -> list[str]:
    """Of what this program's processes wrote, why they ended, each cause once."""
    return list(dict.fromkeys(line for line in lines if line.startswith(("error: ", "stopped by SIGTERM"))))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the message states what is kept."""

    status = 130  # of the program


@contextmanager
def waiting_lock(folder: Path) -> Iterator[None]:
    """One process at a time works in a folder; another one says that it waits, and waits."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"  {folder}: {WAITING}", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def appended(path: Path, ending: str) -> Path:
    """The path with ``ending`` after its whole name, so that ``take.1`` and ``take.2`` stay two names."""
    return path.with_name(path.name + ending)


def target_of(path: Path) -> Path:
    """The file that writing to ``path`` changes; links are followed.

    Raises ValueError for a folder, a device, a pipe, a socket or a link to itself.
    """
    try:
        target = path.resolve()
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    except (OSError, RuntimeError) as error:  # Python 3.11 and 3.12 raise RuntimeError for a loop of links
        raise ValueError(f"{path}: cannot be written ({_reason(error)}); choose another name") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file (a device, a pipe or a socket)"
        raise ValueError(f"{path}: is {kind}; give the name of a file")
    return target


@contextmanager
def stating_full_disks(path: Path) -> Iterator[None]:
    """Raises an OSError of a write that names no file again, with the file or folder and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK or error.filename is not None:
            raise
        raise OSError(
            f"{path}: cannot be written ({error.strerror}); make room and run the same command again"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which it replaces at the end; it is removed on an error.

    The name is random and new, so that no file of the user is changed; the suffix is that of ``path``. Links
    are followed. Raises as :func:`target_of` and :func:`stating_full_disks` do.
    """
    target = target_of(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with stating_full_disks(path):
            yield temporary
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8; the file appears by rename."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_outputs(outputs: Mapping[str, Path], inputs: Iterable[Path]) -> None:
    """Refuse outputs that are the same file as an input or as another output, also by links and hard links.

    ``outputs`` maps options to the files that they name. Raises ValueError before anything is written.
    """
    earlier = [(path, "an input") for path in inputs]
    for option, path in outputs.items():
        try:
            str(path).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{option} {path}: the name is not valid UTF-8; choose another name") from error
        target = target_of(path)
        for other, role in earlier:
            if target in other.resolve().parents or other.resolve() in target.parents:
                raise ValueError(
                    f"{option} {path}: one of it and {other} would lie below the other; choose another name"
                )
            if _same_file(target, other):
                raise ValueError(
                    f"{option} {path}: is {role} ({other}), which would be overwritten; choose another name"
                )
        earlier.append((path, f"what {option} writes"))


def try_outputs(outputs: Mapping[str, Path], size: int) -> None:
    """Check the space and the permissions of each output's folder, before hours of work.

    ``size`` is the number of bytes needed in each folder. A file is written there and removed again. Raises
    ValueError.
    """
    for option, path in outputs.items():
        target = target_of(path)
        created = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(target.parent).free
            if free < size:
                raise ValueError(
                    f"{option} {path}: about {size / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free; "
                    "make room or choose another folder"
                )
            probe = _temporary(target)
            probe.touch(exist_ok=False)
            probe.unlink()
            if target.exists() and not os.access(target, os.W_OK):
                raise ValueError(f"{option} {path}: is write-protected; choose another name")
        except OSError as error:
            raise ValueError(
                f"{option} {path}: cannot be written ({_reason(error)}); choose another folder or name"
            ) from error
        finally:
            for folder in created:
                if folder.is_dir():
                    folder.rmdir()


def _temporary(target: Path) -> Path:
    return target.with_name(f".{token_hex(8)}.partial{target.suffix}")


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _same_file(target: Path, other: Path) -> bool:
    if target == other.resolve():
        return True
    try:
        return target.samefile(other)
    except OSError:  # one of them does not exist yet
        return False


def sha256(path: Path) -> str:
    """The digest of a file: 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
