"""Files that are there in one piece or not at all, also after a power failure."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def why(error: Exception) -> str:
    """What an error of the disk says, on one line and without the names that TensorFlow puts around it."""
    return re.sub(r"\{\{.*?\}\} *| *\[Op:\w*\]", "", " ".join(str(error).split()))


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Lets an error of the disk name the file: one of opening it does, one of writing to it does not."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync(path: Path) -> None:
    """Flushes a file or directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(temporary: Path, final: Path) -> None:
    """Flushes every file of a finished directory, and gives it its name: whoever sees the name sees all of it."""
    for path in sorted(temporary.rglob("*"), reverse=True):
        sync(path)
    sync(temporary)
    temporary.rename(final)
    sync(final.parent)
    sync(final.parent.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a file in one piece: whoever reads it sees the old text or the new one, also after a power failure."""
    temporary = path.with_name(f"{path.name}.tmp")
    with named(temporary):
        temporary.write_text(text)
        sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def numbered(directory: Path) -> list[Path]:
    """The entries of a directory whose names are numbers, in the order of these numbers."""
    found = [path for path in directory.glob("*") if path.name.isascii() and path.name.isdecimal()] if directory.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))
