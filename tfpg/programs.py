"""Compiled programs, kept in the user's cache folder from one run to the next: compiling takes longer than many a run.

XLA's persistent cache reads and writes one directory and trusts what it finds: a truncated file ends the process with an error, a damaged
one with a crash, and so does a disk that is full or may not be written. So each run has a directory of its own. It begins with links to the
programs that are kept; when the run ends, those it compiled are kept too, each under its name, size and time of writing. A file that is no
longer what its name says is deleted and compiled anew. Runs side by side and runs that are killed leave nothing half-made.
"""

import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NONE = "none"
BUDGET = 500_000_000  # bytes that are kept; the oldest programs go first
ROOM = 1_000_000_000  # bytes that must be free
LEFT = 7 * 86_400.0  # seconds after which the directory of a run that was killed is removed
READ = ("XLA_FLAGS", "TF_XLA_FLAGS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


def machine() -> str:
    """A name for what compiled code depends on: TensorFlow, the processor and how many of them, settings of XLA."""
    facts = [importlib.metadata.version("tensorflow"), platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        facts += [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    facts += [str(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())]
    facts += [f"{name}={os.environ.get(name)}" for name in READ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on."""
    names = ("tfpg", "tensorflow", "tensorflow-probability", "tf-keras", "keras", "gymnasium", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def folder(place: str) -> Path:
    """Where programs are kept: --cache, or tfpg in the user's cache folder, made if need be. Raises: OSError."""
    root = Path(place or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "tfpg").expanduser()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = root.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{root}: others may write there")
    if shutil.disk_usage(root).free < ROOM:
        raise OSError(f"{root}: the disk is nearly full")
    return root


def sealed(name: str, file: Path) -> str:
    """The name under which a program is kept: it says what the file looked like when it was written."""
    found = file.stat()
    return f"{name}.{found.st_size}.{found.st_mtime_ns}"


def lay_out(store: Path, own: Path) -> None:
    """Links the programs that are kept into a run's directory; deletes those that are not what their names say."""
    for file in store.iterdir():
        if file.is_dir():
            if time.time() - file.stat().st_mtime > LEFT:
                shutil.rmtree(file, ignore_errors=True)
            continue
        with suppress(FileNotFoundError):
            name = file.name.rsplit(".", 2)[0]
            if file.name == sealed(name, file):
                os.link(file, own / name)
            else:
                file.unlink()


def keep(own: Path, store: Path) -> None:
    """Adds what a run compiled, and keeps to BUDGET."""
    for file in own.glob("*.pb"):
        with suppress(FileExistsError):
            os.link(file, store / sealed(file.name, file))
    total = 0
    for file in sorted(store.parent.glob("*/*.pb.*"), key=lambda file: file.stat().st_mtime, reverse=True):
        total += file.stat().st_size
        if total > BUDGET:
            file.unlink(missing_ok=True)


@contextmanager
def kept(place: str) -> Iterator[Path | None]:
    """What TensorFlow compiles for the processor inside is found again by later runs, if TensorFlow starts inside.

    Gives: the directory of this run, where `*.pb` of others lies and what is left is kept; None if there is none to be had.

    Args:
        place: a folder, '' for the user's cache folder, 'none' for none. Where there is none to be had, programs are compiled as ever.
    """
    if place == NONE or "tf_xla_persistent_cache_directory" in os.environ.get("TF_XLA_FLAGS", ""):
        yield None
        return
    before, own = os.environ.get("TF_XLA_FLAGS"), None
    with suppress(OSError):
        store = folder(place) / machine()
        store.mkdir(exist_ok=True)
        own = Path(tempfile.mkdtemp(prefix="run-", dir=store))
        lay_out(store, own)
        ours = f"--tf_xla_persistent_cache_directory={own} --tf_xla_persistent_cache_read_only=false"
        os.environ["TF_XLA_FLAGS"] = f"{before or ''} {ours} --tf_xla_persistent_cache_device_types=CPU".strip()
    try:
        yield own
    finally:
        if before is None:
            os.environ.pop("TF_XLA_FLAGS", None)
        else:
            os.environ["TF_XLA_FLAGS"] = before
        if own is not None:
            with suppress(OSError):
                keep(own, own.parent)
            shutil.rmtree(own, ignore_errors=True)
