"""A run: the loop, and what goes around it. Files are laid out as docs/run-directory.md says."""

import dataclasses
import json
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import tensorflow as tf

from tfpg import build, checkpoint, convert, demonstrations, engines, evaluate, metrics, programs, report, workdir
from tfpg.build import Setup
from tfpg.config import Config
from tfpg.errors import Misfit, Stopped, UsageError
from tfpg.export import export
from tfpg.files import write_text
from tfpg.learner import initial_state
from tfpg.metrics import Log, Row, read
from tfpg.schedules import SCHEDULES
from tfpg.types import Nest, TrainState

DEFAULT_EVAL_EVERY = 10  # iterations, when --stop_at_return asks for evaluations and --eval_every does not say how often

PURPOSES = ("progress", "result", "evaluate", "collect")

FINISHING = threading.Lock()  # what draws and what exports is not made for threads


@dataclasses.dataclass
class Counters:
    """How far a run has come."""

    iteration: int = 0
    steps: int = 0
    episodes: int = 0
    seconds: float = 0.0
    best_return: float = -math.inf  # of the evaluations so far
    best_steps: int = 0  # when it was; 0 without evaluations


class Interrupt:
    """Inside, SIGINT and SIGTERM are remembered instead of died of. A second one acts as usual. Made in the main thread, asked by any."""

    def __init__(self) -> None:
        self.signal = 0
        self.before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def _handle(self, handler: Callable[[int, FrameType | None], None]) -> None:
        for number in self.before:
            signal.signal(number, handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self.restore()

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        self._remember(number, None)
        raise Stopped

    def __enter__(self) -> "Interrupt":
        self._handle(self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, everything is saved, and a signal raises Stopped. In another thread than the main one it waits all the same."""
        here = threading.current_thread() is threading.main_thread()
        if here and not self.signal:
            self._handle(self._raise)
        yield
        if here and not self.signal:
            self._handle(self._remember)


class Run:
    """One run directory and the state of its training."""

    def __init__(self, config: Config, directory: Path, parts: Setup) -> None:
        self.config, self.directory, self.parts = config, directory, parts
        seeds = tf.random.experimental.stateless_split(tf.constant([config.seed, 0]), 4)
        self.init_seed, self.begin_seed, iterate_seed, self.judge_seed = tf.unstack(seeds)
        self.iterate_word = int(tf.random.experimental.stateless_fold_in(iterate_seed, 0)[0])
        self.counters = Counters()
        self.state: TrainState = initial_state(parts.learner, self.init_seed)
        if config.guidance:
            self.state = self.state._replace(penalty=tf.constant(config.guidance))
        self.best = self.state
        self.carry: Nest = ()
        self.first_iteration_seconds = math.nan

    def begin(self) -> None:
        self.carry = self.parts.engine.begin(tf.random.experimental.stateless_fold_in(self.begin_seed, self.counters.iteration))

    def restore(self, repair: bool) -> None:
        """Takes the newest whole checkpoint. Environments in Python cannot be saved: they begin anew, from a seed of their own."""
        self.begin()
        like = lambda counters: self.kept(counters.get("best_steps", 0) > 0)  # noqa: E731
        try:
            kept, counters = checkpoint.latest(self.directory / "checkpoints", like, repair)
        except Misfit as error:
            raise UsageError(f"{self.directory / 'run.flags'} does not fit its checkpoint: {error}") from None
        self.counters = Counters(**counters)
        if not tf.nest.flatten(self.carry):
            self.begin()
        self.state, self.carry, self.best = kept["train"], kept["carry"], kept.get("best", kept["train"])

    def kept(self, best: bool) -> dict[str, Nest]:
        """What a checkpoint holds; the best state so far only where one was evaluated."""
        return {"train": self.state, "carry": self.carry, **({"best": self.best} if best else {})}

    def save(self) -> Path:
        kept, counters = self.kept(self.counters.best_steps > 0), dataclasses.asdict(self.counters)
        return checkpoint.save(self.directory / "checkpoints", self.counters.iteration, kept, counters, made_with())

    def iterate(self) -> Row:
        """Collects and updates once, and returns the iteration's row of metrics."""
        begun = time.perf_counter()
        seed = np.array([self.iterate_word, self.counters.iteration], np.int32)  # what folding in the iteration gives, without an operation
        state, carry, found = self.parts.engine.iterate(self.state, self.carry, seed, np.float32(self.pace()))
        row: Row = {name: x if isinstance(x, (int, float)) else x.numpy().item() for name, x in found.items()}
        seconds = time.perf_counter() - begun
        if math.isnan(self.first_iteration_seconds):
            self.first_iteration_seconds = seconds
        done, past = row["steps"], self.counters
        counters = dataclasses.replace(
            past,
            iteration=past.iteration + 1,
            steps=past.steps + done,
            episodes=past.episodes + row["episodes"],
            seconds=past.seconds + seconds,
        )
        self.state, self.carry, self.counters = state, carry, counters
        return {**row, **vars(counters), "steps_per_second": done / seconds}

    def pace(self) -> float:
        """How much of the configured step to take, as --schedule has it at this point of the budget."""
        return SCHEDULES[self.config.schedule](min(1.0, self.counters.steps / self.config.total_steps))

    def seed_for(self, purpose: str) -> tf.Tensor:
        """A seed [2] of its own for each purpose and iteration."""
        seed = tf.random.experimental.stateless_fold_in(self.judge_seed, self.counters.iteration)
        return tf.random.experimental.stateless_fold_in(seed, PURPOSES.index(purpose))

    def judge(self, purpose: str, state: TrainState | None = None) -> np.ndarray:
        """Returns of greedy episodes, other ones for each purpose: what decided to stop is not what the result is measured by."""
        return self.parts.engine.evaluate(state or self.state, self.seed_for(purpose), self.config.eval_episodes)

    def evaluate(self) -> float:
        """Mean return of the policy as it is now, which is kept if none was better: of equals the one that has learned from more."""
        found = float(np.mean(self.judge("progress")))
        if found >= self.counters.best_return:
            self.best, self.counters = self.state, dataclasses.replace(self.counters, best_return=found, best_steps=self.counters.steps)
        return found

    def selected(self) -> tuple[TrainState, int]:
        """The state that --select asks for, and how many steps it has learned from. Raises: UsageError if none is known to be best."""
        if self.config.select == "last":
            return self.state, self.counters.steps
        if not self.counters.best_steps:
            raise UsageError(f"--select=best: nothing was evaluated in {self.directory}; --select=last is allowed.")
        return self.best, self.counters.best_steps


def device(run: Run) -> str:
    """Where the parameters are, such as CPU:0."""
    return ":".join(tf.nest.flatten(run.state.policy)[0].device.split(":")[-2:])


def describe(run: Run) -> str:
    """What the run will do and on which device, in one line."""
    config, engine = run.config, run.parts.engine
    data = f"{config.total_steps:,} steps, {engine.envs} x {engine.horizon} per iteration ({engine.name} engine)"
    if config.demonstrations:
        data = f"{config.total_steps:,} steps of the {engine.envs} episodes in {config.demonstrations}, all in each iteration"
    where = f"on {device(run)}{' with XLA' if config.compiled() else ''}"
    return f"{config.algo} on {config.env}: {data}, seed {config.seed}, {where}, into {run.directory}"


def reached(run: Run) -> bool:
    """Whether the evaluation after the last iteration so far reached --stop_at_return."""
    judged = [row["eval_return"] for row in read(run.directory) if row["iteration"] == run.counters.iteration]
    return any(value is not None and value >= run.config.stop_at_return for value in judged)


def loop(run: Run, log: Log, progress: report.Progress, interrupt: Interrupt) -> None:
    """Collect and update, evaluate, report, save: until the budget is used, the goal is reached, or somebody asks to stop.

    What was learned is saved whatever ends the loop.
    """
    config, wanted = run.config, not math.isnan(run.config.stop_at_return)
    eval_every = config.eval_every or (DEFAULT_EVAL_EVERY if wanted else 0)
    solved, lines = reached(run), report.Lines(progress, config.seed)
    try:
        while run.counters.steps < config.total_steps and not solved and not interrupt.signal:
            row = run.iterate()
            try:
                if eval_every and run.counters.iteration % eval_every == 0:
                    row["eval_return"] = run.evaluate()
                    solved = wanted and row["eval_return"] >= config.stop_at_return
            finally:
                lines.update(log.write(row))
            if run.counters.iteration % config.checkpoint_every == 0:
                log.sync()
                run.save()
        if config.select == "best" and not run.counters.best_steps and not interrupt.signal:
            run.evaluate()  # it ended before the first evaluation
    finally:
        log.sync()
        run.save()
    if solved:
        progress.say(f"Reached --stop_at_return={config.stop_at_return:g} after {run.counters.steps:,} steps.")


def threads() -> int:
    """How many of them an operation may use."""
    return tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1


def made_with() -> dict[str, str]:
    """What the bits of a run depend on beside its flags."""
    return {**programs.versions(), "machine": platform.machine(), "threads": str(threads())}


def tell_differences(before: dict[str, str]) -> None:
    """Says what is not as it was when a run was saved."""
    now = made_with()
    other = [f"{name} {before[name]} then, {now.get(name, 'nothing')} now" for name in before if before[name] != now.get(name)]
    if other:
        print(f"Not as it was when this run was saved: {'; '.join(other)}. It goes on, but not to the bit as it would have.")


def about(run: Run) -> dict[str, Any]:
    """What an exported policy tells of where it comes from."""
    config, flags = run.config, workdir.flags(run.config)
    return {
        "algo": config.algo,
        "env": config.env,
        "seed": config.seed,
        "steps": run.selected()[1],
        "versions": programs.versions(),
        "flags": flags,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file in one piece."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def tell_events(config: Config, rows: list[Row], events: dict[str, int]) -> None:
    """What went wrong in a run and was mended, a sentence for each kind."""
    if events["skipped"]:
        print(f"{events['skipped']} of {len(rows)} updates were not made: they would have left numbers that are not finite.")
    if events["refused"]:
        made = len(rows) * config.epochs * config.minibatches
        known = [row["overlap"] for row in rows if row["overlap"] is not None]
        least = f"down to {min(known):.2g}" if known else "it was not even a number"
        print(
            f"{events['refused']:,} of {made:,} updates were refused: the sample's effective share fell below --least_overlap="
            f"{config.least_overlap:g} ({least}), so it said too little about the policy."
        )
    for name, what in (
        ("cg_breakdown", "conjugate gradient met a direction without curvature, and took the solution it had until there; --damping helps"),
        ("line_search_failed", "no step length raised the surrogate within --kl_radius, and the policy stayed as it was"),
        ("constant_advantages", "all advantages were the same: there was nothing to learn from"),
    ):
        if events[name]:
            print(f"In {events[name]:,} of {len(rows):,} iterations {what}.")
    if events["env_restarts"]:
        print(f"Failed environments were replaced {events['env_restarts']:,} times; what an iteration had until then was dropped.")


def finish(run: Run, policy: Path) -> dict[str, Any]:
    """Evaluates, draws the curve, and writes summary.json. Returns the summary."""
    config, done = run.config, run.counters
    (state, learned_from), rows = run.selected(), read(run.directory)
    returns = run.judge("result", state)
    events = metrics.events(rows)
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
        "events": events,
        "policy": str(policy.relative_to(run.directory)),
        "policy_steps": learned_from,
        "engine": run.parts.engine.name,
        "envs": run.parts.engine.envs,
        "horizon": run.parts.engine.horizon,
        "device": device(run),
        "jit": config.compiled(),
        "threads": threads(),
        "versions": programs.versions(),
    }
    tell_events(config, rows, events)
    report.learning_curve(run.directory / "learning_curve.png", rows, f"{config.algo} on {config.env}, seed {config.seed}")
    write_json(run.directory / "summary.json", summary)
    return summary


def summed_up(run: Run) -> bool:
    """Whether a summary tells of the run as far as it has come: one that is damaged or incomplete says nothing."""
    try:
        summary = json.loads((run.directory / "summary.json").read_text())
    except (OSError, ValueError, RecursionError):
        return False
    whole = isinstance(summary, dict) and {"algo", "evaluation", "policy", "versions"} <= summary.keys()
    return whole and summary.get("steps") == run.counters.steps


def finished(run: Run) -> bool:
    """Whether the run has all its steps, or stopped at its goal, and its summary says so."""
    return (run.counters.steps >= run.config.total_steps or reached(run)) and summed_up(run)


def opened(config: Config, directory: Path, parts: Setup) -> Run:
    """A run that begins, or that --resume goes on with. Raises: UsageError for demonstrations or a budget that do not fit it."""
    run = Run(config, directory, parts)
    digest = demonstrations.digest(config.demonstrations) if config.demonstrations else ""
    if config.resume:
        if digest:
            workdir.check_digest(directory, config.demonstrations, digest)
        run.restore(repair=True)
        tell_differences(checkpoint.made_with(directory / "checkpoints"))
        workdir.change(config, run.counters.steps)
    else:
        if digest:
            workdir.keep_digest(directory, config.demonstrations, digest)
        run.begin()
    return run


def learn(run: Run, progress: report.Progress, interrupt: Interrupt, tell: Callable[[dict[str, Any]], None]) -> None:
    """Trains until the run is complete and `tell` has told its summary, or until a signal asks to stop, all saved."""
    config, parts = run.config, run.parts
    if not config.resume:
        run.state = parts.engine.prepare(run.state, run.begin_seed)
    log = Log(run.directory, keep=run.counters.iteration, tensorboard=config.tensorboard)
    try:
        loop(run, log, progress, interrupt)
        if not interrupt.signal:
            with interrupt.raising(), FINISHING:
                policy = export(run.directory / "policy", parts.learner, run.selected()[0], parts.spaces, about(run))
                tell(finish(run, policy))
    except Stopped:
        pass
    finally:
        log.close()
        parts.engine.close()


def stopped(number: int, steps: int, progress: report.Progress, directory: Path) -> int:
    """Says how to go on after a signal. Returns the exit code, 128 + signal."""
    print(f"{progress.clear}Stopped by {signal.Signals(number).name} after {steps:,} steps, saved. Go on with:")
    print(f"  python run.py --resume --workdir={directory}", flush=True)
    return 128 + number


def train(config: Config, directory: Path, parts: Setup) -> int:
    """Trains, and leaves a complete run directory. Returns the exit code: 0, or 128 + signal when asked to stop."""
    run = opened(config, directory, parts)
    if finished(run):
        more = "--total_steps says how many it shall have"
        goal = f"it reached --stop_at_return={config.stop_at_return:g}, which may be another"
        print(f"{directory} is finished: it has its {run.counters.steps:,} steps. {more if not reached(run) else goal}.")
        return 0
    print(describe(run), flush=True)
    progress = report.Progress(config.progress, config.total_steps)
    progress.begin()
    with Interrupt() as interrupt:
        learn(run, progress, interrupt, lambda summary: print(report.read_aloud(summary, directory)))
    return stopped(interrupt.signal, run.counters.steps, progress, directory) if interrupt.signal else 0


def evaluate_run(config: Config, directory: Path, parts: Setup) -> int:
    """Judges the newest checkpoint of a run, prints it and writes evaluation.json."""
    run = Run(config, directory, parts)
    run.restore(repair=False)
    state, steps = run.selected()
    judged = evaluate.summary(run.judge("evaluate", state))
    write_json(directory / "evaluation.json", {**judged, "steps": steps})
    print(report.judgement(judged))
    parts.engine.close()
    return 0


def export_run(config: Config, directory: Path, parts: Setup) -> int:
    """Exports the policy of a run's newest checkpoint, the last or the best, as a further version of its policy, or for another runtime."""
    run = Run(config, directory, parts)
    run.restore(repair=False)
    state, steps = run.selected()
    given = (parts.learner, state, parts.spaces, about(run))
    if config.format == "savedmodel":
        path, more = export(directory / "policy", *given), ""
    else:
        path, difference = convert.export(directory / config.format, config.format, *given)
        more = f" Loaded again, it differs by {difference:.1e} at most."
    print(f"The policy after {steps:,} steps is in {path}.{more}")
    parts.engine.close()
    return 0


def check_same_spaces(first: Run, other: Run) -> None:
    """Raises UsageError for runs whose policies cannot score one another's episodes."""
    if other.config.env != first.config.env:
        raise UsageError(f"--workdir={other.directory} is a run on {other.config.env}, not on {first.config.env} as {first.directory}.")
    ours, theirs = (run.parts.spaces.observation_shape for run in (first, other))
    if ours != theirs:
        raise UsageError(
            f"--workdir={other.directory} sees observations of shape {theirs} (--window={other.config.window}), but {first.directory} "
            f"of shape {ours} (--window={first.config.window}): runs that see the same are allowed."
        )
    if other.parts.spaces != first.parts.spaces:
        raise UsageError(f"--workdir={other.directory} has other spaces than {first.directory}: runs on the same environment are allowed.")


def check_output(path: Path) -> None:
    """Raises UsageError before any episode is played if no file can be written there."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--output={path} cannot be written: a file in a directory that is there is allowed.")
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise UsageError(f"--output={path} cannot be written: {error.strerror}.") from None


def collect_run(config: Config, directory: Path, parts: Setup, *further: Config) -> int:
    """Plays whole episodes with the newest policies of a run and of further ones, and writes them with each one's probability of each."""
    runs = [Run(config, directory, parts)]
    for each in further:
        with workdir.of_flags(Path(each.workdir)):
            runs.append(Run(each, Path(each.workdir), build.setup(each)))
    share, rest = divmod(config.eval_episodes, len(runs))
    path = Path(config.output) if config.output else directory / "demonstrations.npz"
    if rest or not share:
        raise UsageError(
            f"--eval_episodes={config.eval_episodes} cannot be shared by {len(runs)} runs: a multiple of {len(runs)} is allowed."
        )
    for run in runs[1:]:
        check_same_spaces(runs[0], run)
    check_output(path)
    pieces = []
    for i, run in enumerate(runs):
        run.restore(repair=False)
        sample = engines.make_sample(run.config, run.parts.learner, run.parts.engine.name, share)
        found = sample(run.state, tf.random.experimental.stateless_fold_in(run.seed_for("collect"), i))
        pieces.append(found._replace(memory=(), next_memory=()))
    t = demonstrations.join(pieces)
    log_prob_jt = np.stack([demonstrations.log_prob(run.parts.learner, run.state, t).numpy() for run in runs])
    try:
        demonstrations.write(path, config.env, parts.spaces, t, log_prob_jt)
    except OSError as error:
        raise UsageError(f"--output={path} cannot be written: {error.strerror}.") from None
    returns = tf.reduce_sum(tf.where(t.mask, t.reward, tf.zeros_like(t.reward)), axis=0)
    print(
        f"{config.eval_episodes:,} episodes of {len(runs)} sampled {'policy' if len(runs) == 1 else 'policies'}, "
        f"{np.count_nonzero(t.mask):,} steps, returning {np.mean(returns):,.1f} on average, are in {path}."
    )
    for run in runs:
        run.parts.engine.close()
    return 0


MODES: dict[str, Callable[..., int]] = {"train": train, "evaluate": evaluate_run, "export": export_run, "collect": collect_run}
