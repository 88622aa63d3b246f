"""The program in processes that can be killed. Each is forked from one that has imported TensorFlow, which saves half of its time."""

import contextlib
import multiprocessing
import os
import resource
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = ["--hidden=8", "--envs=8", "--eval_episodes=3", "--progress=none", "--tensorboard=false", "--jit=false"]

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of the processes to come
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(["run", "tfpg.train", "tfpg.seeds", "faults.processes"])


def become(arguments: list[str], err: str, directory: Path, largest_file: int, gym: str) -> None:
    """What `python run.py` does in a directory, in this process. `gym` is a module that registers environments."""
    import run

    multiprocessing.set_start_method("fork", force=True)  # as it is where nothing was said
    os.chdir(directory)
    os.setsid()
    for number, path in ((1, os.devnull), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if gym:
        __import__(gym)
    sys.argv = ["run.py", *arguments]
    run.main()


class Started:
    """The program, started. Its standard error goes to a file of its own, its standard output nowhere."""

    def __init__(self, *arguments: object, directory: Path = ROOT, largest_file: int = 0, gym: str = "") -> None:
        descriptor, self.err = tempfile.mkstemp()
        os.close(descriptor)
        given = [str(each) for each in arguments]
        self.process = forked.Process(target=become, args=(given, self.err, directory, largest_file, gym))
        self.process.start()

    def running(self) -> bool:
        return self.process.exitcode is None

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may just have ended by itself
            if self.running():
                os.kill(self.process.pid, number)

    def end(self, timeout: float = 300) -> tuple[int, str]:
        """Waits for its end. Returns its exit code, negative for the signal that it died of, and what it wrote to standard error."""
        self.process.join(timeout)
        if self.running():
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"did not end within {timeout} s")
        written = Path(self.err).read_text()
        os.unlink(self.err)
        return self.process.exitcode, written


def ended(*arguments: object, **more: object) -> tuple[int, str]:
    """The program from its start to its end: exit code and standard error."""
    return Started(*arguments, **more).end()


def sentence(err: str) -> bool:
    """Whether standard error is one line in the program's own words, or nothing."""
    return err == "" or (err.count("\n") == 1 and err.startswith("run.py: "))
