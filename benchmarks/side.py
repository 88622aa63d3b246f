"""tfpg's side of a case of `make bench-peers`: does the work in a process of its own and prints one line of JSON.

side.py train ITERATIONS FLAGS ...      seconds of each iteration after the first, steps in one, parameters, returns
side.py simulate ITERATIONS FLAGS ...   seconds of collecting through gymnasium, and of them those inside `step` of its environments
side.py product SIZE                    the Fisher-vector product beside plain matrix products of its shapes, GF/s
side.py update REPEATS FLAGS ...        updates of a large batch in graph: seconds of each, MB of the batch and beyond
side.py turns REPEATS K,K,.. FLAGS ..   seconds of such updates with so many conjugate-gradient iterations each
side.py serve BATCH                     an exported policy beside the compiled function that it holds, and matrix products
"""

import ctypes
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from run import configure, lean, quiet, spare  # noqa: E402
from tfpg.programs import kept  # noqa: E402


def seconds(call: Callable[[], Any], repeats: int) -> list[float]:
    """Of each call after the first."""
    call()
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return found


def opened(arguments: list[str]) -> Any:
    """A run as `run.py` makes it, without its files."""
    from tfpg import build
    from tfpg.train import Run

    config = configure(["--total_steps=1000000000", "--schedule=constant", *arguments])
    return Run(config, Path(), build.setup(config))


def train(iterations: int, arguments: list[str]) -> dict[str, Any]:
    """Iterations of a run."""
    import tensorflow as tf

    run = opened(arguments)
    begun = time.perf_counter()
    run.begin()
    rows, spent = [run.iterate()], []
    first = time.perf_counter() - begun
    for _ in range(iterations):
        begun = time.perf_counter()
        rows.append(run.iterate())
        spent.append(time.perf_counter() - begun)
    parameters = sum(math.prod(leaf.shape) for leaf in tf.nest.flatten((run.state.policy, run.state.value)))
    returns = [row["return_mean"] for row in rows if row["return_mean"] == row["return_mean"]]
    run.parts.engine.close()
    return {"first": first, "seconds": spent, "steps": rows[-1]["steps"] - rows[-2]["steps"], "parameters": parameters, "returns": returns}


def simulate(iterations: int, arguments: list[str]) -> dict[str, Any]:
    """Seconds of an iteration's collecting, and of those inside `step` of the environments as gymnasium makes them."""
    from gymnasium.wrappers import TimeLimit

    from tfpg.rollout import Stream

    spent = {"ours": 0.0, "peer": 0.0}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            begun = time.perf_counter()
            found = call(*given)
            spent[name] += time.perf_counter() - begun
            return found

        return run

    Stream.gather, TimeLimit.step = timed("ours", Stream.gather), timed("peer", TimeLimit.step)  # type: ignore[method-assign]
    run = opened(arguments)
    run.begin()
    run.iterate()
    spent.update(ours=0.0, peer=0.0)
    for _ in range(iterations):
        run.iterate()
    run.parts.engine.close()
    return {name: total / iterations for name, total in spent.items()}


def product(samples: int) -> dict[str, Any]:
    """Both sides count a multiplication and an addition as two, of matrix products only; both walk the same blocks, in cache."""
    import tensorflow as tf

    from tfpg import gradients, nets, policies
    from tfpg.blocks import in_blocks
    from tfpg.config import Config

    block, width, times = Config.fisher_block, 64, 20
    policy = policies.categorical(nets.mlp([4, width, width, 2]), 2)
    theta = policy.init(tf.constant([1, 2]))
    observation, weight = in_blocks((tf.random.stateless_normal([samples, 4], [1, 2]), tf.fill([samples], 1 / samples)), block)
    data = gradients.keep_factors(policy, theta, observation)
    shapes = [(4, width), (width, width), (width, 2)]
    multiplied = 2 * 2 * samples * sum(n * m for n, m in shapes)

    @tf.function(jit_compile=True, autograph=False)
    def fisher(v: Any) -> Any:
        again = lambda k, v: (k + 1, gradients.fisher_product(policy, theta, data, weight, v))  # noqa: E731
        return tf.while_loop(lambda k, _: k < times, again, (tf.constant(0), v))[1]

    @tf.function(jit_compile=True, autograph=False)
    def plain(kernels: list[tf.Tensor]) -> list[tf.Tensor]:
        """Of each layer h W and h' e for one block, as often as there are blocks."""

        def one(k: tf.Tensor, kernels: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            out = []
            for h, kernel in zip(inputs, kernels, strict=True):
                e = h @ kernel
                narrow = e.shape[1] < h.shape[1]
                out.append(tf.transpose(tf.matmul(e, h, transpose_a=True)) if narrow else tf.matmul(h, e, transpose_a=True))
            return k + 1, [1e-9 * kernel for kernel in out]

        return tf.while_loop(lambda k, _: k < times * samples // block, one, (tf.constant(0), kernels))[1]

    inputs = [tf.random.stateless_normal([block, n], [3, 4]) for n, _ in shapes]
    kernels = [tf.random.stateless_normal(shape, [5, 6]) for shape in shapes]
    rates = {}
    for name, program, given in (("ours", fisher, theta), ("peer", plain, kernels)):
        spent = seconds(lambda program=program, given=given: tf.nest.flatten(program(given))[0].numpy(), 5)
        rates[name] = times * multiplied / statistics.median(spent) / 1e9
    return rates


def resident(field: str) -> float:
    """MB of this process, from Linux: VmRSS is now, VmHWM the most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1e3


def give_back() -> None:
    """Has glibc give back whatever is free, from a single heap: what the process then holds is in use."""
    libc = ctypes.CDLL(None)
    for parameter, value in ((-8, 1), (-3, 1 << 16), (-1, 1 << 16)):  # M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        libc.mallopt(parameter, value)


def batch_of(arguments: list[str]) -> dict[str, Any]:
    """Learner and state of a run in graph, some of a batch, and what makes an update of all of it, in programs as `run.py` makes them.

    The batch is one of at most 64 environments, again and again, made as the update begins: nobody else holds it, as in training, and
    nothing is left behind of collecting it that an update may use.
    """
    import tensorflow as tf

    from tfpg import acting, build, engines, rollout
    from tfpg.learner import initial_state
    from tfpg.update import make_update

    config = configure(arguments)
    environment, piece, seed, pace = engines.open_graph(config), engines.compiler(config), tf.constant([1, 2]), tf.constant(1.0)
    learner = build.make_learner(config, environment.spaces)
    state = initial_state(learner, seed)
    few = next(k for k in range(min(max(config.envs // 2, 1), 64), 0, -1) if config.envs % k == 0)
    collect = piece(rollout.make_collect(environment, learner, few, config.horizon))
    some = collect(state, rollout.start(environment, learner, few, seed), seed)[1]

    def updates(learner: Any) -> Callable[[], Any]:
        improve = make_update(learner, piece)

        def of(state: Any, some: Any) -> Any:
            trajectory = tf.nest.map_structure(lambda x: tf.concat([x] * (config.envs // few), 1), some)
            return improve(state, trajectory, seed, pace)

        program = acting.direct(of)
        return lambda: [leaf.numpy() for leaf in tf.nest.flatten(program(state, some)[0].policy)]

    samples = config.envs * config.horizon
    collected = sum(leaf.numpy().nbytes for leaf in tf.nest.flatten(some)) / (few * config.horizon) * samples
    return {
        "learner": learner,
        "parameters": sum(leaf.shape.num_elements() for leaf in tf.nest.flatten(state.policy)),
        "batch_mb": (collected + 2 * some.reward.dtype.size * samples) / 1e6,
        "updates": updates,
    }


def update(repeats: int, arguments: list[str]) -> dict[str, Any]:
    """Seconds of updates; memory of one is what it takes at its peak, once it has been compiled, on top of what the process holds and of
    the batch: what was collected, and of each sample its advantage and what the critic is fitted to. With 0 repeats memory is all that is
    measured, with an allocator that gives it back.
    """
    if not repeats:
        give_back()
    of = batch_of(arguments)
    again = of["updates"](of["learner"])
    spent = seconds(again, repeats)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # what was the most so far is what there is now
    held = resident("VmRSS")
    again()
    beyond = resident("VmHWM") - held - of["batch_mb"]
    return {"seconds": spent, "parameters": of["parameters"], "batch_mb": of["batch_mb"], "update_mb": beyond}


def turns(repeats: int, arguments: list[str]) -> dict[str, list[float]]:
    """Seconds of updates that differ in their conjugate-gradient iterations, in turns."""
    counts, *flags = arguments
    of = batch_of(flags)
    learner = of["learner"]
    calls = {k: of["updates"](learner._replace(improve=learner.improve._replace(cg_iterations=int(k)))) for k in counts.split(",")}
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {k: [] for k in calls}
    for _ in range(repeats):
        for k, call in calls.items():
            begun = time.perf_counter()
            call()
            found[k].append(time.perf_counter() - begun)
    return found


def serve(batch: int) -> dict[str, Any]:
    """Seconds of one greedy action, or of a batch, through the loaded SavedModel and through the compiled function it was made of."""
    import tensorflow as tf

    from tfpg import build, export
    from tfpg.config import configured
    from tfpg.learner import act, initial_state

    config = configured(env="CartPole-v1")
    parts = build.setup(config)
    learner, state = parts.learner, initial_state(parts.learner, tf.constant([1, 2]))
    with tempfile.TemporaryDirectory() as directory:
        path = export.export(Path(directory), learner, state, parts.spaces)
        served = tf.saved_model.load(str(path)).signatures["serving_default"]
        observation = tf.random.stateless_normal([batch, 4], [1, 2])
        bare = tf.function(lambda o: learner.policy.mode(act(learner, state, o)[0]), autograph=False).get_concrete_function(
            tf.TensorSpec([None, 4])
        )
        kernels = [tf.random.stateless_normal(shape, [5, 6]) for shape in ((4, 64), (64, 64), (64, 2))]

        @tf.function(autograph=False)
        def products(x: tf.Tensor) -> tf.Tensor:
            for kernel in kernels:
                x = x @ kernel
            return x

        calls = {
            "ours": lambda: served(observation=observation),
            "peer": lambda: bare(observation),
            "products": lambda: products(observation),
        }
        return {name: statistics.median(seconds(call, 2000)) for name, call in calls.items()}


def main() -> None:
    work, *rest = sys.argv[1:]
    spare()
    with quiet(), lean():
        import tensorflow  # noqa: F401
    with_flags: dict[str, Callable[..., dict[str, Any]]] = {"train": train, "simulate": simulate, "update": update, "turns": turns}
    works: dict[str, Callable[..., dict[str, Any]]] = {"product": product, "serve": serve}
    print(json.dumps(with_flags[work](int(rest[0]), rest[1:]) if work in with_flags else works[work](int(rest[0]))))


if __name__ == "__main__":
    with kept(os.environ.get("TFPG_CACHE", "none")):
        main()
