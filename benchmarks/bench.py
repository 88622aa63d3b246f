"""What the main job costs: whole processes, and collecting, updating and compiling apart.  make bench [ARGS="--repeats=9"]

Whole processes are timed from start to exit by the wall clock, with nothing in TensorFlow's caches. Inside a process, collecting and
updating are compiled as two programs (the default run compiles them as one), and each is timed over several calls after the first. Medians,
with the least and the greatest. Run it on a machine that does nothing else.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from run import quiet  # noqa: E402

REPEATS = flags.DEFINE_integer("repeats", 5, "counted calls of each program", lower_bound=1)
PROCESSES = flags.DEFINE_integer("processes", 3, "counted processes of each kind", lower_bound=1)

WHOLE = {
    "default run: 400,000 steps, evaluation, export": [],
    "until solved: --stop_at_return=475 --eval_every=2": ["--stop_at_return=475", "--eval_every=2"],
}
SIZES = [("CartPole-v1", "graph", 40, 200), ("CartPole-v1", "graph", 64, 128), ("CartPole-v1", "graph", 1024, 128)]
SIZES += [("Pendulum-v1", "graph", 40, 200), ("CartPole-v1", "sync", 8, 256)]


def spread(values: list[float], digits: int = 1) -> str:
    """median (least to greatest)."""
    shown = [f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def whole_process(arguments: list[str]) -> float:
    """Seconds from start to exit of one run in a directory of its own."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "run.py", "--algo=npg", *arguments, f"--workdir={directory}/run", "--progress=none", "--cache=none"]
        begun = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - begun


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call, results waited for."""
    import tensorflow as tf

    begun = time.perf_counter()
    tf.nest.map_structure(lambda tensor: tensor.numpy(), call())
    return time.perf_counter() - begun


def programs(env: str, engine: str, n: int, horizon: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Collecting and updating of one size, each a call without arguments."""
    import tensorflow as tf

    from tfpg import build, rollout, update
    from tfpg import learner as learners
    from tfpg.config import Config
    from tfpg.envs import IN_GRAPH, gym

    seed, pace = tf.constant([1, 2]), tf.constant(1.0)
    environment: Any = IN_GRAPH[env]() if engine == "graph" else gym.ENGINES[engine](env, n, 0)
    learner = build.make_learner(Config(env=env), environment.spaces)
    state = learners.initial_state(learner, seed)
    if engine == "graph":
        compiled = tf.function(rollout.make_collect(environment, learner, n, horizon), jit_compile=True, autograph=False)
        carry = rollout.start(environment, learner, n, seed)
        collect = lambda: compiled(state, carry, seed)[1]  # noqa: E731
    else:
        stream = rollout.Stream(environment, learner, n, horizon, jit=True)
        collect = lambda: stream.collect(state, seed)[0]  # noqa: E731
    improve = tf.function(update.make_update(learner), jit_compile=True, autograph=False)
    trajectory = collect()
    return collect, lambda: improve(state, trajectory, seed, pace)


def report_whole() -> None:
    print("Whole process, seconds\n")
    for name, arguments in WHOLE.items():
        print(f"  {name:<52} {spread([whole_process(arguments) for _ in range(PROCESSES.value)])}", flush=True)


def report_apart() -> None:
    with quiet():
        from tfpg import build  # noqa: F401  what a program imports is no part of its first call
    print("\nnpg, 64-64 tanh, 10 CG iterations, 5 critic epochs: environment steps per second; seconds of the first call\n")
    print(f"  {'environment':<12} {'engine':<10} {'batch':>10}  {'collect':<36} {'update':<30} {'first collect':>13} {'first update':>13}")
    for env, engine, n, horizon in SIZES:
        begun = time.perf_counter()
        collect, improve = programs(env, engine, n, horizon)
        first_collect, first_update = time.perf_counter() - begun, timed(improve)
        rates = [[n * horizon / timed(call) for _ in range(REPEATS.value)] for call in (collect, improve)]
        shown = f"  {env:<12} {engine:<10} {f'{n} x {horizon}':>10}  {spread(rates[0], 0):<36} {spread(rates[1], 0):<30}"
        print(f"{shown} {first_collect:>13.1f} {first_update:>13.1f}", flush=True)


def main(_: list[str]) -> None:
    report_whole()
    report_apart()


if __name__ == "__main__":
    app.run(main)
