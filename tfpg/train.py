"""A run: the loop, and what goes around it. Files are laid out as docs/run-directory.md says."""

import dataclasses
import json
import math
import platform
import signal
import time
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import tensorflow as tf

from tfpg import checkpoint, evaluate, report
from tfpg.build import Setup
from tfpg.config import Config
from tfpg.export import export
from tfpg.metrics import Log, Row, read
from tfpg.types import Nest, TrainState
from tfpg.update import initial_state

DEFAULT_EVAL_EVERY = 10  # iterations, when --stop_at_return asks for evaluations and --eval_every does not say how often


@dataclasses.dataclass
class Counters:
    """How far a run has come."""

    iteration: int = 0
    steps: int = 0
    episodes: int = 0
    seconds: float = 0.0


class Interrupt:
    """Remembers SIGINT and SIGTERM instead of dying of them. A second one acts as usual."""

    def __init__(self) -> None:
        self.signal = 0
        self.before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Run:
    """One run directory and the state of its training."""

    def __init__(self, config: Config, directory: Path, parts: Setup) -> None:
        self.config, self.directory, self.parts = config, directory, parts
        seeds = tf.random.experimental.stateless_split(tf.constant([config.seed, 0]), 4)
        self.init_seed, self.begin_seed, self.iterate_seed, self.judge_seed = tf.unstack(seeds)
        self.counters = Counters()
        self.state: TrainState = initial_state(parts.learner, self.init_seed)
        self.carry: Nest = ()
        self.first_iteration_seconds = math.nan

    def begin(self) -> None:
        self.carry = self.parts.engine.begin(tf.random.experimental.stateless_fold_in(self.begin_seed, self.counters.iteration))

    def restore(self) -> None:
        """Takes the newest whole checkpoint. Environments in Python cannot be saved: they begin anew, from a seed of their own."""
        self.begin()
        kept = {"train": self.state, "carry": self.carry}
        kept, counters = checkpoint.latest(self.directory / "checkpoints", kept)
        self.counters = Counters(**counters)
        if not tf.nest.flatten(self.carry):
            self.parts.engine.close()
            self.begin()
        self.state, self.carry = kept["train"], kept["carry"]

    def save(self) -> Path:
        kept = {"train": self.state, "carry": self.carry}
        return checkpoint.save(self.directory / "checkpoints", self.counters.iteration, kept, dataclasses.asdict(self.counters))

    def iterate(self) -> Row:
        """Collects and updates once, and returns the iteration's row of metrics."""
        begun = time.perf_counter()
        seed = tf.random.experimental.stateless_fold_in(self.iterate_seed, self.counters.iteration)
        self.state, self.carry, tensors = self.parts.engine.iterate(self.state, self.carry, seed, tf.constant(self.pace()))
        row: Row = {name: tensor.numpy().item() for name, tensor in tensors.items()}
        seconds = time.perf_counter() - begun
        if math.isnan(self.first_iteration_seconds):
            self.first_iteration_seconds = seconds
        done, past = row["steps"], self.counters
        self.counters = Counters(past.iteration + 1, past.steps + done, past.episodes + row["episodes"], past.seconds + seconds)
        return {**row, **dataclasses.asdict(self.counters), "steps_per_second": done / seconds}

    def pace(self) -> float:
        """How much of the configured step to take: all of it, or with --anneal what is left of the budget."""
        return max(0.0, 1 - self.counters.steps / self.config.total_steps) if self.config.anneal else 1.0

    def judge(self, episodes: int) -> np.ndarray:
        seed = tf.random.experimental.stateless_fold_in(self.judge_seed, self.counters.iteration)
        return self.parts.engine.evaluate(self.state, seed, episodes)


def device(run: Run) -> str:
    """Where the parameters are, such as CPU:0."""
    return ":".join(tf.nest.flatten(run.state.policy)[0].device.split(":")[-2:])


def describe(run: Run) -> str:
    """What the run will do and on which device, in one line."""
    config, engine = run.config, run.parts.engine
    return (
        f"{config.algo} on {config.env}: {config.total_steps:,} steps, {engine.envs} x {engine.horizon} per iteration "
        f"({engine.name} engine), seed {config.seed}, on {device(run)}{' with XLA' if config.jit else ''}, into {run.directory}"
    )


def loop(run: Run, log: Log, progress: report.Progress, interrupt: Interrupt) -> None:
    """Collect and update, evaluate, report, save: until the budget is used, the goal is reached, or somebody asks to stop.

    What was learned is saved whatever ends the loop.
    """
    config, wanted = run.config, not math.isnan(run.config.stop_at_return)
    eval_every = config.eval_every or (DEFAULT_EVAL_EVERY if wanted else 0)
    solved = False
    try:
        while run.counters.steps < config.total_steps and not solved and not interrupt.signal:
            row = run.iterate()
            if eval_every and run.counters.iteration % eval_every == 0:
                row["eval_return"] = float(np.mean(run.judge(config.eval_episodes)))
                solved = wanted and row["eval_return"] >= config.stop_at_return
            progress.update(log.write(row))
            if run.counters.iteration % config.checkpoint_every == 0:
                run.save()
    finally:
        run.save()
    if solved:
        progress.say(f"Reached --stop_at_return={config.stop_at_return:g} after {run.counters.steps:,} steps.")


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on."""
    names = ("tfpg", "tensorflow", "tensorflow-probability", "tf-keras", "keras", "gymnasium", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file in one piece."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def finish(run: Run, policy: Path) -> dict[str, Any]:
    """Evaluates, draws the curve, and writes summary.json. Returns the summary."""
    config, done = run.config, run.counters
    returns = run.judge(config.eval_episodes)
    summary = {
        "algo": config.algo,
        "env": config.env,
        "seed": config.seed,
        "steps": done.steps,
        "episodes": done.episodes,
        "iterations": done.iteration,
        "wall_seconds": round(done.seconds, 3),
        "steps_per_second": round(done.steps / max(done.seconds, 1e-9), 1),
        "first_iteration_seconds": round(run.first_iteration_seconds, 3) if math.isfinite(run.first_iteration_seconds) else None,
        "evaluation": evaluate.summary(returns),
        "policy": str(policy.relative_to(run.directory)),
        "engine": run.parts.engine.name,
        "envs": run.parts.engine.envs,
        "horizon": run.parts.engine.horizon,
        "device": device(run),
        "jit": config.jit,
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "versions": versions(),
    }
    report.learning_curve(run.directory / "learning_curve.png", read(run.directory), f"{config.algo} on {config.env}, seed {config.seed}")
    write_json(run.directory / "summary.json", summary)
    return summary


def train(config: Config, directory: Path, parts: Setup) -> int:
    """Trains, and leaves a complete run directory. Returns the exit code: 0, or 128 + signal when asked to stop."""
    run, interrupt = Run(config, directory, parts), Interrupt()
    if config.resume:
        run.restore()
    else:
        run.begin()
    if run.counters.steps >= config.total_steps and (directory / "summary.json").exists():
        print(f"{directory} is finished: it has its {run.counters.steps:,} steps. --total_steps says how many it shall have.")
        return 0
    print(describe(run), flush=True)
    log = Log(directory, keep=run.counters.iteration, tensorboard=config.tensorboard)
    progress = report.Progress(config.progress, config.total_steps)
    progress.begin()
    try:
        loop(run, log, progress, interrupt)
        if interrupt.signal:
            name = signal.Signals(interrupt.signal).name
            progress.say(f"Stopped by {name} after {run.counters.steps:,} steps, saved. Go on with:")
            progress.say(f"  python run.py --resume --workdir={directory}")
            return 128 + interrupt.signal
        policy = export(directory / "policy", parts.learner, run.state, parts.spaces)
        print(report.read_aloud(finish(run, policy), directory))
        return 0
    finally:
        interrupt.restore()
        log.close()
        parts.engine.close()


def evaluate_run(config: Config, directory: Path, parts: Setup) -> int:
    """Judges the newest checkpoint of a run, prints it and writes evaluation.json."""
    run = Run(config, directory, parts)
    run.restore()
    judged = evaluate.summary(run.judge(config.eval_episodes))
    write_json(directory / "evaluation.json", {**judged, "steps": run.counters.steps})
    print(report.judgement(judged))
    parts.engine.close()
    return 0


def export_run(config: Config, directory: Path, parts: Setup) -> int:
    """Exports the newest checkpoint of a run as a further version of its policy."""
    run = Run(config, directory, parts)
    run.restore()
    print(f"The policy after {run.counters.steps:,} steps is in {export(directory / 'policy', parts.learner, run.state, parts.spaces)}.")
    parts.engine.close()
    return 0


MODES = {"train": train, "evaluate": evaluate_run, "export": export_run}
