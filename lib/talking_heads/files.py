"""Files that the kit writes: they appear by rename, keep what was there until then, and never replace an
input.
"""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex


def appended(path: Path, ending: str) -> Path:
    """The path with ``ending`` after its whole name: ``take.1`` and ``take.2`` stay two names."""
    return path.with_name(path.name + ending)


def target_of(path: Path) -> Path:
    """The file that writing to ``path`` changes: links are followed.

    Raises ValueError where that is a folder, a device, a pipe or a socket, or a link to itself.
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
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it replaces ``path`` at the end and vanishes on an
    error.

    Its name is random and new, so no file of the user's is touched; the ending stays the same. A link is
    followed. Raises what :func:`target_of` does.
    """
    target = target_of(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
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
    """Refuse outputs that are one of the inputs, or one another, under whatever name (links, hard links).

    ``outputs`` maps the option that names a file to the file. Raises ValueError before anything is written.
    """
    taken = [(path, "an input") for path in inputs]
    for option, path in outputs.items():
        try:
            str(path).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{option} {path}: the name is not valid UTF-8; choose another name") from error
        target = target_of(path)
        for other, role in taken:
            if target in other.resolve().parents or other.resolve() in target.parents:
                raise ValueError(
                    f"{option} {path}: one of it and {other} would lie below the other; choose another name"
                )
            if _same_file(target, other):
                raise ValueError(
                    f"{option} {path}: is {role} ({other}), which would be overwritten; choose another name"
                )
        taken.append((path, f"what {option} writes"))


def try_outputs(outputs: Mapping[str, Path], size: int) -> None:
    """Write and remove a file beside each output, so that a full disk or a missing right shows before
    hours of work.

    ``size`` are the bytes that will be needed in each folder. Leaves nothing behind. Raises ValueError.
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
    except OSError:  # one of them is not there yet
        return False
