"""tfpg beside its peers on this machine: make bench-peers, with ARGS="--quick" in a few minutes, ARGS="--only=npg_small" for one case.

Each case does the same work twice, in processes of their own that alternate: tfpg's side (`side.py`), and the peer's, from the environment
that `make bench-peers` builds for it. A process warms up first; what counts is the median of what follows, and what the first iteration of
the first process took, compilation included, is told apart (later ones find their programs on disk).
Ratios are of neighbours in time, so that a machine whose speed changes hurts both. The table goes to the screen, all of it to
`benchmarks/latest.json`. What bounds each case stands in docs/performance.md. Let nothing else run meanwhile.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

PEERS = flags.DEFINE_string("peers", str(ROOT / ".venv-peers" / "bin" / "python"), "the Python that has the peers")
PAIRS = flags.DEFINE_integer("pairs", 3, "times that both sides run", lower_bound=1)
QUICK = flags.DEFINE_bool("quick", False, "one pair, fewer iterations, and not the longest cases")
ONLY = flags.DEFINE_list("only", [], "names of cases; all if empty")
OUTPUT = flags.DEFINE_string("output", str(HERE / "latest.json"), "the JSON file")

Side = Callable[[], dict[str, Any]]


class Case(NamedTuple):
    """What is compared. A side returns 'value', in `unit`; ratios are ours to the peer's, turned over where less is better."""

    name: str
    unit: str
    goal: float
    ours: Side
    peer: Side
    what: str
    less: bool = False
    long: bool = False  # left out in a hurry
    pairs: int = 100  # at most


def python(executable: str, *arguments: str) -> dict[str, Any]:
    """The last line of a program's output as JSON. Raises: RuntimeError with what it said if it failed."""
    done = subprocess.run([executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def learned(found: dict[str, Any]) -> dict[str, Any]:
    """Steps per second of a side that trains; it must have become better at its task."""
    returns = found["returns"]
    if len(returns) < 2 or max(returns[1:]) <= returns[0]:
        raise RuntimeError(f"a side did not learn: its returns are {returns}")
    value = found["steps"] / statistics.median(found["seconds"])
    return {"value": value, "first": found["first"], "parameters": found["parameters"], "return": max(returns)}


def tfpg(iterations: int, *arguments: str) -> Side:
    """tfpg trains."""
    return lambda: learned(python(sys.executable, "benchmarks/side.py", "train", str(fewer(iterations)), *arguments))


def jax(envs: int, iterations: int) -> Side:
    """The peer in JAX trains."""

    def run() -> dict[str, Any]:
        arguments = [f"--envs={envs}", "--horizon=128", f"--iterations={fewer(iterations) + 1}"]
        found = python(PEERS.value, "benchmarks/peers/jax_npg.py", *arguments)
        return learned({**found, "steps": envs * 128})

    return run


def sb3(algo: str, rollouts: int, settings: dict[str, Any], env: str = "CartPole-v1", envs: int = 8, normalize: int = 0) -> Side:
    """Stable-Baselines3 or sb3-contrib trains."""

    def run() -> dict[str, Any]:
        words = {"algo": algo, "env": env, "envs": envs, "rollouts": fewer(rollouts), "settings": json.dumps(settings)}
        words |= {"normalize": normalize, "threads": os.cpu_count() or 1}
        return learned(python(PEERS.value, "benchmarks/peers/speed.py", *(f"--{name}={value}" for name, value in words.items())))

    return run


def fewer(count: int) -> int:
    """How often, in a hurry."""
    return max(3, count // 3) if QUICK.value else count


def timed(command: list[str]) -> float:
    """Seconds of a process, from its start to its end. Raises: RuntimeError if it failed."""
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - begun


def solved(cache: str) -> Side:
    """`run.py --algo=npg` from process start to an evaluation of 475 and an exported policy."""

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            flags_ = ["--stop_at_return=475", "--eval_every=2", "--eval_episodes=40", f"--workdir={directory}/run", "--progress=none"]
            seconds = timed([sys.executable, "run.py", "--algo=npg", *flags_, f"--cache={cache}"])
            summary = json.loads(Path(directory, "run", "summary.json").read_text())
            if summary["evaluation"]["mean"] < 475:
                raise RuntimeError(f"the policy that was exported returns {summary['evaluation']['mean']}")
            return {"value": seconds, "steps": summary["steps"]}

    return run


def peer_solved() -> dict[str, Any]:
    """The fastest peer known for this: sb3-contrib's TRPO, eight environments, 256 steps."""
    settings = json.dumps({"n_steps": 256, "batch_size": 512, "gae_lambda": 0.98, "cg_damping": 1e-3, "n_critic_updates": 20})
    begun = time.perf_counter()
    found = python(PEERS.value, "benchmarks/peers/speed.py", "--until=475", f"--settings={settings}", f"--threads={os.cpu_count()}")
    if found["evaluation"] < 475:
        raise RuntimeError(f"the peer did not solve it: {found}")
    return {"value": time.perf_counter() - begun, "steps": found["steps"]}


def halves(*arguments: str, peer: str = "peer") -> tuple[Side, Side]:
    """Both sides of a case that one process measures: whoever comes first runs it, the other takes what is left."""
    left: dict[str, list[float]] = {"ours": [], peer: []}

    def half(name: str) -> dict[str, Any]:
        if not left[name]:
            found = python(sys.executable, "benchmarks/side.py", *arguments)
            for key, kept in left.items():
                kept.append(found[key])
        return {"value": left[name].pop()}

    return lambda: half("ours"), lambda: half(peer)


def cores(count: int) -> Side:
    """In-graph training on the first `count` cores."""
    command = ["-c", ",".join(map(str, range(count))), sys.executable, "benchmarks/side.py", "train"]
    return lambda: learned(python("taskset", *command, str(fewer(12)), "--envs=1024", "--horizon=128"))


def seeds(count: int, apart: bool) -> Side:
    """Default runs with so many seeds, in one program or one after another."""

    def run() -> dict[str, Any]:
        n = fewer(count)
        with tempfile.TemporaryDirectory() as directory:
            calls = [[f"--seed={k}", f"--workdir={directory}/seed{k}"] for k in range(n)]
            calls = calls if apart else [[f"--num_seeds={n}", f"--workdir={directory}"]]
            value = sum(timed([sys.executable, "run.py", "--progress=none", *arguments]) for arguments in calls)
            found = [json.loads(Path(directory, f"seed{k}", "summary.json").read_text()) for k in range(n)]
            return {"value": value, "returns": [summary["evaluation"]["mean"] for summary in found]}

    return run


TRPO = {"n_steps": 256, "batch_size": 256, "n_critic_updates": 5, "cg_max_steps": 10, "cg_damping": 0.1, "sub_sampling_factor": 1}
PPO = {"n_steps": 32, "batch_size": 256, "n_epochs": 20, "gae_lambda": 0.8, "gamma": 0.98, "ent_coef": 0.0, "learning_rate": 1e-3}
HOPPER = {"batch_size": 128, "n_critic_updates": 20, "cg_max_steps": 25, "cg_damping": 0.1, "sub_sampling_factor": 1}
OURS_PPO = ["--envs=8", "--horizon=32", "--epochs=20", "--minibatches=1", "--critic_epochs=20", "--critic_minibatches=1"]
OURS_PPO += ["--gae_lambda=0.8", "--discount=0.98"]
OURS_A2C = ["--envs=8", "--horizon=5", "--n_steps=5", "--critic_epochs=1", "--critic_minibatches=1"]
OURS_HOPPER = ["--env=Hopper-v4", "--cg_iterations=25", "--critic_epochs=20", "--critic_minibatches=16"]


def hopper(envs: int, horizon: int, *engine: str) -> tuple[Side, Side]:
    """Both sides of TRPO on Hopper-v4, whose simulator is gymnasium's unless an engine is named."""
    ours = tfpg(6, "--algo=trpo", *engine, *OURS_HOPPER, f"--envs={envs}", f"--horizon={horizon}")
    return ours, sb3("trpo", 4, {**HOPPER, "n_steps": horizon}, "Hopper-v4", envs, normalize=1)


CASES = [
    Case("npg_small", "steps/s", 1.3, tfpg(40, "--envs=64", "--horizon=128"), jax(64, 40), "NPG in graph, 64 x 128; JAX"),
    Case("npg_large", "steps/s", 1.6, tfpg(8, "--envs=1024", "--horizon=128"), jax(1024, 8), "NPG in graph, 1024 x 128; JAX", long=True),
    Case("npg_trpo", "steps/s", 15, tfpg(40, "--envs=64", "--horizon=128"), sb3("trpo", 10, TRPO), "the same; sb3-contrib TRPO", long=True),
    Case(
        "trpo", "steps/s", 4, tfpg(20, "--algo=trpo", "--engine=sync", "--envs=8", "--horizon=256"), sb3("trpo", 10, TRPO),
        "TRPO through gymnasium, CartPole, 8 x 256; sb3-contrib",
    ),
    Case("ppo", "steps/s", 3, tfpg(100, "--algo=ppo", "--engine=sync", *OURS_PPO), sb3("ppo", 50, PPO), "PPO, CartPole, 8 x 32; SB3"),
    Case("a2c", "steps/s", 3, tfpg(400, "--algo=a2c", "--engine=sync", *OURS_A2C), sb3("a2c", 400, {}), "A2C, CartPole, 8 x 5; SB3"),
    Case("hopper", "steps/s", 2, *hopper(8, 256), "TRPO, Hopper-v4, 8 x 256; sb3-contrib"),
    Case("envpool", "steps/s", 4, *hopper(8, 256, "--engine=envpool"), "the same through EnvPool; sb3-contrib", long=True),
    Case("hopper_two", "steps/s", 2, *hopper(2, 1024), "TRPO, Hopper-v4, 2 x 1024; sb3-contrib", long=True),
    Case("envpool_two", "steps/s", 4, *hopper(2, 1024, "--engine=envpool"), "the same through EnvPool; sb3-contrib", long=True),
    Case(
        "simulator", "s", 0.65, *halves("simulate", "4", "--algo=trpo", *OURS_HOPPER, "--envs=2", "--horizon=1024"),
        "collecting from Hopper-v4, 2 x 1024; of it inside the simulator", True,
    ),
    Case("solved_first", "s", 1.0, solved("none"), peer_solved, "CartPole solved and exported, from nothing; sb3-contrib TRPO", True),
    Case("solved_later", "s", 1 / 0.7, solved(""), peer_solved, "the same, later; sb3-contrib TRPO", True, long=True),
    Case(
        "fisher", "GF/s", 0.6, *halves("product", "16384"),
        "Fisher-vector product; plain matrix products of its shapes",
    ),
    Case("cores", "steps/s", 1.7, cores(2), cores(1), "NPG in graph, 1024 x 128: two cores; one", long=True),
    Case("seeds", "s", 2, seeds(16, False), seeds(16, True), "16 default runs in one program; one after another", True, long=True, pairs=1),
    Case(
        "serve_one", "s", 1 / 1.2, *halves("serve", "1"),
        "one greedy action of the SavedModel; the bare function", True,
    ),
    Case(
        "serve_batch", "s", 0.6, *halves("serve", "1024", peer="products"),
        "1,024 greedy actions of the SavedModel; the bare matrix products", True,
    ),
]  # fmt: skip


def compare(case: Case, pairs: int) -> dict[str, Any]:
    """Both sides, `pairs` times, whoever came second coming first the next time. Raises: RuntimeError if a side did not do the work."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for k in range(pairs):
        for side in ("ours", "peer") if k % 2 == 0 else ("peer", "ours"):
            found[side].append((case.ours if side == "ours" else case.peer)())
    sizes = {run["parameters"] for runs in found.values() for run in runs if "parameters" in run}
    if len(sizes) > 1:
        raise RuntimeError(f"the sides train networks of different sizes: {' and '.join(map(str, sorted(sizes)))} parameters")
    values = {side: [run["value"] for run in runs] for side, runs in found.items()}
    ratios = [theirs / own if case.less else own / theirs for own, theirs in zip(values["ours"], values["peer"], strict=True)]
    extra = {f"{side}_{key}": runs[0][key] for side, runs in found.items() for key in runs[0] if key != "value"}
    return {
        "what": case.what,
        "unit": case.unit,
        "ours": statistics.median(values["ours"]),
        "peer": statistics.median(values["peer"]),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "goal": case.goal,
        **extra,
    }


def told(case: Case, row: dict[str, Any]) -> str:
    """A line of the table."""
    shown = [f"{row[side]:,.0f}" if row[side] > 100 else f"{row[side]:.3g}" for side in ("ours", "peer")]
    ratios = " ".join(f"{row[f'ratio_{which}']:>6.2f}" for which in ("median", "min", "max"))
    return f"{case.name:<13} {shown[0]:>10} {shown[1]:>10} {case.unit:<8} {ratios} {case.goal:>5.2g} {row['minutes']:>5.1f}  {case.what}"


def main(_: list[str]) -> None:
    unknown = set(ONLY.value) - {case.name for case in CASES}
    if unknown:
        sys.exit(f"--only={','.join(sorted(unknown))} is no case: {', '.join(case.name for case in CASES)} are.")
    chosen = [case for case in CASES if (case.name in ONLY.value if ONLY.value else not (QUICK.value and case.long))]
    pairs, results, begun = 1 if QUICK.value else PAIRS.value, {}, time.perf_counter()
    print(f"{'case':<13} {'ours':>10} {'peer':>10} {'':<8} {'ratio':>6} {'least':>6} {'most':>6} {'goal':>5} {'min':>5}", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TFPG_CACHE"] = cache
        for case in chosen:
            started = time.perf_counter()
            try:
                results[case.name] = compare(case, min(pairs, case.pairs))
                results[case.name]["minutes"] = (time.perf_counter() - started) / 60
                print(told(case, results[case.name]), flush=True)
                Path(OUTPUT.value).write_text(json.dumps(results, indent=2) + "\n")
            except (RuntimeError, OSError) as error:
                print(f"{case.name:<13} failed: {error}", flush=True)
    print(f"{len(results)} of {len(chosen)} cases in {(time.perf_counter() - begun) / 60:.1f} minutes, pairs: {pairs}; {OUTPUT.value}")


if __name__ == "__main__":
    app.run(main)
