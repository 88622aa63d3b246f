"""python run.py --algo=npg: trains a policy, shows it, and leaves it where anything can load it.  python run.py --help lists the flags."""

import ctypes
import dataclasses
import gc
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

from absl import flags

from tfpg import programs, workdir
from tfpg.config import CARE, PLACES, SHIPPING, Config, check, check_values, closest, configured, flag_text, settled
from tfpg.errors import EnvironmentFault, RunFault, UsageError

HELP = ("-h", "-help", "--help", "-helpfull", "--helpfull", "-helpshort", "--helpshort")


def define() -> flags.FlagValues:
    """One absl flag for each field of Config."""
    values = flags.FlagValues()
    makers = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
    for field in dataclasses.fields(Config):
        makers[type(field.default)](field.name, field.default, field.metadata["help"], flag_values=values)
    return values


def parse(arguments: list[str]) -> tuple[Config, dict[str, Any]]:
    """The configuration that a command line (or a flagfile) asks for, and the part of it that was said. Raises: UsageError."""
    values = define()
    if any(argument.lstrip("-").startswith("undefok") for argument in arguments):
        raise UsageError("--undefok is not a flag. --help lists them.")
    try:
        rest = values(["run.py", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UsageError(f"--{error.flagname} is not a flag.{closest(error.flagname, values)} --help lists them.") from None
    except flags.CantOpenFlagFileError as error:
        raise UsageError(f"--flagfile cannot be read: {str(error).split('] ')[-1]}.") from None
    except UnicodeDecodeError:
        raise UsageError("--flagfile cannot be read: it is not a text file.") from None
    except (flags.Error, OSError, ValueError) as error:
        raise UsageError(_plain(error)) from None
    if rest:
        raise UsageError(f"{rest[0]!r} is not a flag: flags look like --algo=npg; --help lists them.")
    given = {field.name: values[field.name].value for field in dataclasses.fields(Config) if values[field.name].present}
    return configured(**given), given


KINDS = {bool: "true and false", int: "a whole number", float: "a number", str: "text"}


def _plain(error: Exception) -> str:
    """A flag parser's message as one sentence that says what is allowed."""
    text = " ".join(str(error).split())
    found = re.match(r"flag --(\w+)=(.*?):", text)
    fields = {field.name: field for field in dataclasses.fields(Config)}
    kinds = {name: KINDS[type(field.default)] for name, field in fields.items()}
    empty = re.match(r"Missing value for flag --?(\w+)", text)
    if empty and empty[1] in fields:
        choices = [choice for choice in fields[empty[1]].metadata.get("choices", ()) if choice]
        return f"--{empty[1]} needs a value, as in --{empty[1]}=...: {', '.join(choices) or kinds[empty[1]]} may stand there."
    if found and found[1] in kinds:
        return f"--{found[1]}={found[2]} is not allowed: {kinds[found[1]]} may stand there."
    return text.replace("flag --", "--").rstrip(".") + "."


def configure(arguments: list[str]) -> Config:
    """The checked configuration of this call; a run that exists brings its own flags. Raises: UsageError."""
    config, given = parse(arguments)
    workdir.check_text(given)
    check_values(config)
    if config.mode in SHIPPING:
        unread = [name for name in given if name not in (*PLACES, "device")]
        if unread:
            raise UsageError(
                f"--{unread[0]}={flag_text(given[unread[0]])} would not be read by --mode={config.mode}: a policy is what it is."
            )
        return config
    if config.mode == "train" and not config.resume:
        return settled(check(config))
    path = workdir.existing(config.workdir)
    with workdir.of_flags(path.parent):
        saved, found = parse([f"--flagfile={path}"])
        workdir.check_text(found)
        check(saved)
    missing = [field.name for field in dataclasses.fields(Config) if field.name not in {*found, *PLACES, *CARE}]
    if missing:
        raise UsageError(f"--workdir={config.workdir}: {path.name} there is not complete, it lacks --{missing[0]}.")
    return check(workdir.merge(saved, given))


def one_by_one(arguments: list[str]) -> list[list[str]]:
    """The same command line once for each run that --mode=collect is given in --workdir=RUN,RUN2,... Raises: UsageError."""
    config, _ = parse(arguments)
    names = config.workdir.split(",") if config.mode == "collect" else []
    return [[*arguments, f"--workdir={name}"] for name in names if name] if len(names) > 1 and any(names) else [arguments]


INDENT = " " * 33


def usage() -> str:
    """The flags, grouped, each with what it says."""
    lines = ["python run.py [--flag=value ...]   trains a policy; --flagfile=FILE reads flags from a file.", ""]
    groups: dict[str, list[dataclasses.Field]] = {}
    for field in dataclasses.fields(Config):
        groups.setdefault(field.metadata["group"], []).append(field)
    for group, fields in groups.items():
        lines.append(f"{group}:")
        for field in fields:
            shown = f"--{field.name}={flag_text(field.default)}"
            first, *more = textwrap.wrap(field.metadata["help"], 120 - len(INDENT))
            lines += [f"  {shown:<30} {first}", *(INDENT + line for line in more)]
        lines.append("")
    return "\n".join(lines)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what C++ libraries print at start-up off the screen; shows it after all if the start fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except (UsageError, KeyboardInterrupt):
            raise
        except BaseException:
            sink.seek(0)
            os.write(screen, sink.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


@contextmanager
def lean() -> Iterator[None]:
    """TensorFlow, imported inside, does without Keras, which brings pyplot: a second and more. --network=keras imports it later.

    Nor does anybody look for garbage among the quarter of a million objects that it consists of, now or at the end of the process: a third
    of a second and half of one.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    kept_away = sys.modules.setdefault("keras.src", None) is None  # type: ignore[arg-type]
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        if kept_away:
            del sys.modules["keras.src"]


LARGE = 8 << 20  # bytes


def spare() -> None:
    """Has glibc, where that is what allocates, give arrays of LARGE and more pages of their own, and give these back.

    By itself it does so less and less, and cuts them from heaps, where pieces of a large batch lie between others and take more. What is
    smaller it keeps for what is asked for next, as by itself it would after a while.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, LARGE)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 8 * LARGE)  # M_TRIM_THRESHOLD


def place(device: str) -> str:
    """The TensorFlow device of --device. Raises: UsageError if this machine has none of its kind."""
    import tensorflow as tf

    found = {kind.lower(): tf.config.list_physical_devices(kind) for kind in ("CPU", "GPU", "TPU")}
    if device == "auto":
        device = next(kind for kind in ("tpu", "gpu", "cpu") if found[kind])
    if not found[device]:
        have = ", ".join(kind for kind, devices in found.items() if devices)
        raise UsageError(f"--device={device}: TensorFlow sees none on this machine; {have} and auto are allowed.")
    if device == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.tpu.experimental.initialize_tpu_system(resolver)
    return f"/{device.upper()}:0"


def execute(arguments: list[str]) -> int:
    """Does what the command line asks for. Returns the exit code."""
    config, *further = map(configure, one_by_one(arguments))
    if config.mode in SHIPPING:
        return ship(config)
    with programs.kept(config.cache) as folder:
        return perform(config, folder, *further)


def started(config: Config) -> str:
    """Starts TensorFlow. Returns the device of the run."""
    spare()
    with quiet():
        with lean():
            import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        where = place(config.device)
        tf.zeros([])
    return where


def ship(config: Config) -> int:
    """Verifies or serves an exported policy. Returns the exit code."""
    where = started(config)
    import tensorflow as tf

    from tfpg import verify
    from tfpg.serving import server

    modes = {"verify": verify.report, "serve": server.serve}
    with tf.device(where):
        return modes[config.mode](config)


def perform(config: Config, folder: Path | None, *further: Config) -> int:
    """Trains, or does something else with a run, as a checked configuration asks for.

    Args: folder: where traced programs are kept.
    Returns: the exit code.
    """
    where = started(config)
    import tensorflow as tf

    from tfpg import build, seeds, train

    new, envs, horizon = config.mode == "train" and not config.resume, config.envs, config.horizon
    directory, there, made = Path(config.workdir), workdir.ancestry(config), False
    with tf.device(where):
        try:
            with nullcontext() if new else workdir.of_flags(directory):
                parts = build.setup(config, folder)
            envs, horizon = parts.engine.envs, parts.engine.horizon
            if new:
                directory, made = workdir.create(config), True
            work = seeds.train if config.num_seeds > 1 else train.MODES[config.mode]
            return work(config, directory, parts, *further)
        except (tf.errors.ResourceExhaustedError, MemoryError):
            if made:
                workdir.discard(directory, there)
            sizes = f"--envs={envs}, --horizon={horizon} and --hidden={config.hidden}"
            raise RunFault(f"there is not enough memory: {sizes} decide how much is needed.") from None


def main() -> NoReturn:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")
    if any(argument in HELP for argument in sys.argv[1:]):
        print(usage())
        sys.exit(0)
    try:
        sys.exit(execute(sys.argv[1:]))
    except UsageError as error:
        print(f"run.py: {workdir.one_line(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("run.py: stopped at once; --resume goes on from the last checkpoint, if there is one.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except (EnvironmentFault, RunFault, OSError) as error:
        print(f"run.py: {workdir.one_line(str(error))}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
