"""DeepRM, the notes' application: who schedules how well. Writes docs/deeprm.md and its pictures.

    python benchmarks/deeprm.py train [--only=GLOB]    the learners of LEARNERS that are missing, in runs/deeprm
    python benchmarks/deeprm.py judge [--only=GLOB]    everyone on fresh jobs -> docs/deeprm/judged.json, schedule.png; curves.json
    python benchmarks/deeprm.py speed                  beside a simulator in plain NumPy -> docs/deeprm/speed.json
    python benchmarks/deeprm.py page                   docs/deeprm.md and slowdown.png, curves.png, from these files alone

`make deeprm` does all of it. Every job counts: an episode goes on until the last one has finished.
"""

import argparse
import fnmatch
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

tf.get_logger().setLevel("ERROR")

from examples.schedule import load  # noqa: E402
from tfpg import schedulers  # noqa: E402
from tfpg.envs import deeprm  # noqa: E402
from tfpg.files import numbered, write_text  # noqa: E402

RUNS, OUT, PAGE = ROOT / "runs" / "deeprm", ROOT / "docs" / "deeprm", ROOT / "docs" / "deeprm.md"
RATES = [k / 10 for k in range(1, 11)]
LOAD = 4.1 * 4.5 / 10  # of each resource at a rate of 1: mean length times mean size, over ten units
SEQUENCES, STEPS, UNSEEN = 100, 50, 314159
PATIENCE = 5000  # decisions until whoever still holds a job back is said never to finish; a schedule takes some 200
SEED = tf.constant([1, 2])
PUBLISHED = "--flagfile=configs/deeprm.flags"
LEARNERS: dict[str, list[str]] = {
    "published, rate 0.3": [PUBLISHED, "--env_arguments=rate=0.3,sequences=10,view=code", "--total_steps=9000000"],
    "published, rate 0.5": [PUBLISHED, "--env_arguments=rate=0.5,sequences=10,view=code", "--total_steps=14000000"],
    "published, rate 0.7": [PUBLISHED],
    "leave-one-out": ["--flagfile=configs/deeprm_leave_one_out.flags"],
    "value baseline": ["--flagfile=configs/deeprm_value.flags"],
    "npg": ["--flagfile=configs/deeprm_npg.flags"],
    "ppo": ["--flagfile=configs/deeprm_ppo.flags"],
}
"""Learners by name, and the flags that train them; each run of the published learner takes at least 400 iterations."""
KNOWN = {  # table 1.7: iteration -> mean return in training of the published learner, by rate
    0.3: {0: -115.1, 50: -75.7, 100: -62.2, 200: -51.0, 400: -40.7},
    0.5: {0: -204.1, 50: -137.8, 100: -105.8, 200: -86.0, 400: -61.0},
    0.7: {0: -358.6, 50: -296.5, 100: -255.6, 200: -211.6, 400: -160.7},
}


def say(sentence: str) -> None:
    print(sentence, flush=True)


# Training.


def directory(name: str) -> Path:
    return RUNS / name.replace(",", "").replace(" ", "_").replace(".", "")


def finished(name: str) -> bool:
    """Whether a learner's run has come to its end."""
    return (directory(name) / "summary.json").exists()


def command(name: str) -> list[str]:
    """What trains a learner, or goes on with it."""
    flags = ["--resume"] if numbered(directory(name) / "checkpoints") else LEARNERS[name]
    return [sys.executable, "run.py", *flags, f"--workdir={directory(name)}"]


def train(only: str) -> None:
    """Makes the runs that are missing, one after another."""
    for name in LEARNERS:
        if fnmatch.fnmatch(name, only) and not finished(name):
            say(f"{name}: {' '.join(command(name)[1:])}")
            code = subprocess.run(command(name), cwd=ROOT, check=False).returncode
            if code:
                sys.exit(f"{name} ended with exit code {code}; the same command goes on with it.")


# Judging.


def measures(schedule: schedulers.Schedule) -> dict[str, np.ndarray]:
    """Of each sequence: how many jobs, sums of their slowdowns and completion times, and the share of units in use until all are done."""
    state, cluster = schedule.state, deeprm.Cluster()
    length, size, start = (x.numpy() for x in (state.length, state.size, state.start))
    jobs = length > 0
    if not schedule.finished.numpy().all() or (start[jobs] < 0).any():
        raise RuntimeError("a job never ran: no figure can count it")
    end = np.where(jobs, start + length, 0)
    took = np.where(jobs, end - np.arange(length.shape[1]), 0)
    work = (length[..., None] * size).sum((1, 2)) / (cluster.resources * cluster.units)
    return {
        "jobs": jobs.sum(1),
        "slowdown": (took / np.maximum(length, 1)).sum(1),
        "completion": took.sum(1),
        "utilisation": work / end.max(1),
    }


def entry(m: dict[str, np.ndarray], sjf: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the page says of one scheduler at one rate."""
    return {
        "slowdown": float(m["slowdown"].sum() / m["jobs"].sum()),
        "completion": float(m["completion"].sum() / m["jobs"].sum()),
        "utilisation": float(m["utilisation"].mean()),
        "of_sjf": interval(m, sjf),
    }


def known_measures(schedule: schedulers.Schedule) -> float:
    """Mean slowdown of the jobs that ran: the reference semantics lose the first one."""
    state = schedule.state
    length, start = state.length.numpy(), state.start.numpy()
    ran = (length > 0) & (start >= 0)
    return float(((start + length - np.arange(length.shape[1])) / np.maximum(length, 1))[ran].mean())


def playing(choose: schedulers.Scheduler, rate: float, semantics: str = "corrected") -> schedulers.Schedule:
    """The unseen sequences of a rate, every job of them."""
    environment = deeprm.make(jobs=deeprm.published(SEQUENCES, STEPS, rate, UNSEEN), semantics=semantics)
    return tf.function(lambda: schedulers.play(environment, choose, SEQUENCES, SEED, PATIENCE))()


def interval(mine: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> list[float]:
    """Ratio of mean slowdowns, and its 95 % interval: sequences are resampled, the same ones for both."""
    rng = np.random.default_rng(0)
    rows = rng.integers(SEQUENCES, size=[2000, SEQUENCES])
    of = lambda m, rows: m["slowdown"][rows].sum(-1) / m["jobs"][rows].sum(-1)  # noqa: E731
    ratios = of(mine, rows) / of(others, rows)
    whole = np.arange(SEQUENCES)
    return [float(of(mine, whole) / of(others, whole)), *map(float, np.quantile(ratios, [0.025, 0.975]))]


def judge(only: str) -> None:
    """Everyone at every rate, beside SJF; or some of them, and the others' figures stay."""
    trained = [name for name in LEARNERS if finished(name) and fnmatch.fnmatch(name, only)]
    learners = {name: load(directory(name)) for name in trained}
    if only == "*":
        everyone = {**schedulers.SCHEDULERS, "SJF that keeps room": schedulers.hold(6), **learners}
        write("judged.json", {"fresh": compare(everyone), "known": in_both_semantics()})
        write("curves.json", {name: curve(name) for name in trained}, indent=None)
        draw_schedule(everyone)
    else:
        found = compare({"SJF": schedulers.SCHEDULERS["SJF"], **learners})
        judged = read("judged.json")
        write("judged.json", {**judged, "fresh": {**judged["fresh"], **found}})
        write("curves.json", {**read("curves.json"), **{name: curve(name) for name in trained}}, indent=None)


def read(name: str) -> Any:
    return json.loads((OUT / name).read_text())


def write(name: str, content: Any, indent: int | None = 1) -> None:
    write_text(OUT / name, json.dumps(content, indent=indent) + "\n")


def compare(everyone: dict[str, schedulers.Scheduler]) -> dict[str, dict[str, Any]]:
    """What the page says of each at each rate; SJF comes first."""
    judged: dict[str, dict[str, Any]] = {name: {} for name in everyone}
    for rate in RATES:
        measured: dict[str, dict[str, np.ndarray]] = {}
        for name, choose in everyone.items():
            schedule, found = playing(choose, rate), None
            if schedule.finished.numpy().all():
                measured[name] = measures(schedule)
                found = entry(measured[name], measured["SJF"])
            judged[name][str(rate)] = found
            say(f"rate {rate}, {name}: " + (f"slowdown {found['slowdown']:.3f}" if found else "not finished"))
    return judged


def in_both_semantics() -> dict[str, dict[str, dict[str, float]]]:
    """Mean slowdown of the schedulers by semantics, name and rate."""
    return {
        semantics: {
            name: {str(rate): known_measures(playing(choose, rate, semantics)) for rate in RATES}
            for name, choose in schedulers.SCHEDULERS.items()
        }
        for semantics in deeprm.SEMANTICS
    }


def curve(name: str) -> dict[str, list[float]]:
    """Mean return of the trajectories of each iteration, smoothed over ten as the known curves are, and what the run took."""
    rows = [json.loads(line) for line in (directory(name) / "metrics.jsonl").read_text().splitlines()]
    returns = [row["return_mean"] for row in rows]
    smooth = [statistics.fmean(returns[max(0, k - 9) : k + 1]) for k in range(len(returns))]
    summary = json.loads((directory(name) / "summary.json").read_text())
    return {
        "return": [round(x, 2) for x in smooth],
        "steps": summary["steps"],
        "seconds": summary["wall_seconds"],
        "greedy": summary["evaluation"]["mean"],
    }


# Pictures.


def history(choose: schedulers.Scheduler, jobs: deeprm.Jobs) -> dict[str, np.ndarray]:
    """One cluster step by step: which job holds each unit [time, R, U] (-1 none), and how many wait in the slots and behind them [time]."""
    environment = deeprm.make(jobs=jobs)
    state, step, ended = environment.reset(1, SEED), tf.function(environment.step), False
    held, waiting = [], []
    while not ended:
        time_now, before = int(state.time[0]), state
        state, _, terminated = step(state, choose(state, tf.constant([int(state.time[0]), 7])), SEED)
        if int(state.time[0]) > time_now:
            held.append(owners(before))
            waiting.append([int((before.slots >= 0).numpy().sum()), int((before.backlog >= 0).numpy().sum())])
        ended = bool(terminated[0])
    return {"held": np.array(held), "waiting": np.array(waiting)}


def owners(state: deeprm.State) -> np.ndarray:
    """The jobs that hold the units now, [R, U]: the one of that colour that runs."""
    colour, start, length = state.plan[0, :, 0].numpy(), state.start[0].numpy(), state.length[0].numpy()
    found = np.full(colour.shape, -1)
    for job in np.flatnonzero((start >= 0) & (start <= int(state.time[0])) & (start + length > int(state.time[0]))):
        found[colour == state.colours[0, job % deeprm.COLOURS].numpy()] = job
    return found


def draw_schedule(everyone: dict[str, schedulers.Scheduler]) -> None:
    """The same jobs under SJF and under the best learner: who holds the units of the cluster, and who waits."""
    from matplotlib import pyplot

    best = next((name for name in ("ppo", "npg", *LEARNERS) if name in everyone), "SJF that keeps room")
    jobs = deeprm.published(4, STEPS, 0.7, UNSEEN)
    jobs = deeprm.Jobs(jobs.length[3:], jobs.size[3:])
    shown = {name: history(everyone[name], jobs) for name in ("SJF", best)}
    end = max(len(h["held"]) for h in shown.values())
    figure, axes = pyplot.subplots(3, 2, figsize=(12, 6.5), sharex=True, sharey="row", layout="constrained")
    long = jobs.length[0] > 3
    for column, (name, h) in enumerate(shown.items()):
        for r in range(2):
            picture = np.ones([10, end, 3])
            for t, row in enumerate(h["held"][:, r]):
                for unit, job in enumerate(row):
                    if job >= 0:
                        shade = 0.25 + 0.5 * (job * 0.618 % 1)
                        picture[unit, t] = (0.9, shade, 0.2) if long[job] else (0.15, shade, 0.85)
            axes[r, column].imshow(picture, origin="lower", aspect="auto", extent=(0, end, 0, 10), interpolation="nearest")
            axes[r, column].set_ylabel(f"units of resource {r + 1}")
        slots, behind = h["waiting"].T
        axes[2, column].stackplot(np.arange(len(slots)), slots, behind, labels=("in the slots", "in the backlog"), colors=("0.45", "0.75"))
        axes[2, column].set(xlabel="time (steps)", ylabel="jobs that wait", xlim=(0, end))
        axes[0, column].set_title(f"{name}: all done after {len(h['held'])} steps")
    axes[2, 0].legend(loc="upper left")
    figure.suptitle("Short jobs are blue, long ones orange")
    figure.savefig(OUT / "schedule.png", dpi=110)
    pyplot.close(figure)


def draw_slowdown(judged: dict[str, Any]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for name, rates in judged.items():
        points = [(LOAD * float(rate), found["slowdown"]) for rate, found in rates.items() if found]
        if not points:
            continue
        learner = name in LEARNERS
        axes.plot(*zip(*points, strict=True), marker="o", ms=4, lw=1.8 if learner else 1.2, ls="-" if learner else "--", label=name)
    axes.set(xlabel="offered load of each resource", ylabel="mean slowdown, every job counted", yscale="log")
    ticks = [1, 1.5, 2, 3, 5, 8, 12, 20]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    figure.savefig(OUT / "slowdown.png", dpi=110)
    pyplot.close(figure)


def draw_curves(curves: dict[str, Any]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for rate, points in KNOWN.items():
        line = curves.get(f"published, rate {rate}")
        if line:
            drawn = axes.plot(line["return"], label=f"published learner, rate {rate}")[0]
            axes.plot(list(points), list(points.values()), "o", color=drawn.get_color(), label="the same, elsewhere (references)")
    axes.set(xlabel="iteration (200 trajectories)", ylabel="mean return of the training sequences")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(OUT / "curves.png", dpi=110)
    pyplot.close(figure)


# Speed.


def speed(rounds: int = 5) -> None:
    """Iterations of the published learner, collected by the compiled clusters and by plain ones, in turns."""
    import run as program
    from tfpg import build, engines, rollout
    from tfpg.learner import initial_state
    from tfpg.update import make_update

    config = program.configure([f"--flagfile={ROOT / 'configs' / 'deeprm.flags'}"])
    environment = engines.open_graph(config)
    learner = build.make_learner(config, environment.spaces)
    state, pace = initial_state(learner, SEED), tf.constant(1.0)
    collect = tf.function(rollout.make_collect(environment, learner, config.envs, config.horizon), jit_compile=True)
    update = tf.function(make_update(learner), jit_compile=True)
    carry = rollout.start(environment, learner, config.envs, SEED)

    def ours(k: int) -> int:
        _, trajectory, metrics = collect(state, carry, SEED + k)
        tf.nest.map_structure(lambda x: x.numpy(), update(state, trajectory, SEED, pace)[1])
        return int(metrics["steps"])

    def plain(k: int) -> int:
        trajectory = plain_trajectory(state, config, k)
        tf.nest.map_structure(lambda x: x.numpy(), update(state, trajectory, SEED, pace)[1])
        return int(trajectory.mask.numpy().sum())

    took: dict[str, list[float]] = {"ours": [], "plain": []}
    steps = {"ours": ours(0), "plain": plain(0)}
    for k in range(1, rounds + 1):
        for name, iteration in (("ours", ours), ("plain", plain)):
            begun = time.perf_counter()
            steps[name] = iteration(k)
            took[name].append(time.perf_counter() - begun)
            say(f"{name}: {config.envs / took[name][-1]:.1f} trajectories per second ({steps[name]:,} decisions)")
    ratios = [b / a for a, b in zip(took["ours"], took["plain"], strict=True)]
    found = {name: config.envs / statistics.median(seconds) for name, seconds in took.items()}
    found |= {
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "cores": float(os.cpu_count() or 0),
    }
    write("speed.json", found)


def plain_trajectory(state: Any, config: Any, k: int) -> Any:
    """The same batch from clusters in plain Python and NumPy, one policy evaluation for all of them at each step."""
    from plain_deeprm import PlainDeepRM, sequences

    from tfpg.types import Trajectory

    rng, n = np.random.default_rng(k), config.envs
    length, size = sequences(10, STEPS, 0.7, 42)
    envs = [PlainDeepRM(length[i // config.group], size[i // config.group], colours=1 + rng.permutation(39)) for i in range(n)]
    below, above = ((layer["kernel"].numpy(), layer["bias"].numpy()) for layer in state.policy)
    alive, rows = np.ones(n, bool), []
    for t in range(config.horizon):
        x = np.array([env.image().ravel() for env in envs], np.float32)
        logits = np.maximum(x @ below[0] + below[1], 0) @ above[0] + above[1]
        log_pi = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        action = (log_pi + rng.gumbel(size=log_pi.shape)).argmax(1).astype(np.int32)
        code = np.array([plain_code(env) for env in envs], np.float32)
        results = [env.step(a) if going else (0.0, True) for env, a, going in zip(envs, action, alive, strict=True)]
        reward, ended = np.array([r for r, _ in results], np.float32), np.array([e for _, e in results])
        truncated = np.full(n, t + 1 == config.horizon)
        rows.append((code, action, log_pi[np.arange(n), action], reward, code, ended, truncated, alive.copy(), np.full(n, t, np.int32)))
        alive &= ~ended
    return Trajectory(*(tf.constant(np.stack(column)) for column in zip(*rows, strict=True)), (), ())


def plain_code(env: Any) -> np.ndarray:
    """What `deeprm.code` says of a cluster."""
    plan = np.stack([env.canvas(r) for r in range(env.resources)]) * 40
    length = [env.length[job] if job >= 0 else 0 for job in env.slot]
    size = [env.size[job] if job >= 0 else np.zeros(env.resources) for job in env.slot]
    return np.concatenate([plan.ravel(), length, np.ravel(size), [len(env.backlog), min(env.since_arrival, 10)]])


# The page.

TEXT = """# DeepRM: scheduling a cluster

The application that the notes name: jobs arrive at a cluster of two resources, ten units each, and a policy says which of those that wait
starts next. Without discount the return is minus the sum of the jobs' slowdowns, (finish - arrival) / length. `tfpg/envs/deeprm.py` is the
environment and names its source; `gymnasium.make("tfpg.envs.registered:tfpg/DeepRM-v0")` makes one for gymnasium, which draws it too.

```sh
python run.py --flagfile=configs/deeprm_ppo.flags      # a scheduler, trained
python examples/schedule.py --policy=runs/… jobs.csv   # and at work
make deeprm                                            # everything on this page
```

Each figure below was written by `benchmarks/deeprm.py`; none was typed.

## Who schedules how well

{sequences} fresh sequences of {steps} steps with arrivals for each load, none seen in training, the same for everyone. An episode goes on
until the last job has finished, and **every job counts**. `npg` and `ppo` were trained once, on sequences with rates from 0.4 to 1, the
others at a rate of 0.7 unless their name says otherwise. All draw their actions, as in training. Below each slowdown is what share of
SJF's it is, with a 95 % interval from resampled sequences. "Not finished": some job was still held back after {patience:,} decisions; the
training of these learners cuts episodes at 200 decisions, where a job that is held back costs nothing more.

![Mean slowdown against load for every scheduler and learner](deeprm/slowdown.png)

{table}

Completion time (steps) and utilisation (share of all units in use until all jobs are done):

{further}

{greedy}

![Who holds the units of the cluster over time, under SJF and under the trained policy, and how many jobs wait](deeprm/schedule.png)

## The published learner

`configs/deeprm.flags`: REINFORCE with rewards-to-go, 20 trajectories of each of 10 job sequences, their mean at each decision as the
baseline, 20 hidden units, RMSprop with its epsilon inside the root. The references are the log of a third-party run of the published
program (tdhawale/DeepRM), smoothed over ten iterations as here. Only the initial weights differ: orthogonal here.

![Return against iterations, and the known points](deeprm/curves.png)

{curves}

{took}

{speed}

## What the published program does otherwise

With `--env_arguments=semantics=reference` the environment repeats what the published program does, so that its figures can be had:

- a job that finishes beside another one stays in its list one step longer, and costs 1 / length once more;
- the last of the steps at which a job would just fit is not tried;
- the job of the first step never arrives;
- the cost is counted after departures and arrivals, so that a job pays in advance and the return is not minus the sum of slowdowns.

The others are no part of an environment, and there is no switch for them: its evaluation stops after a number of decisions and averages
over the jobs that had finished, so that holding a long job back until the cut lowers the figure; it divides whole numbers, which rounds
each slowdown down; its test flag reads the training sequences again; its curve named Tetris is that of the packer; its workers share one
stream of random numbers; and more than 39 jobs at once exhaust its colours. Its text gives smaller jobs than its program draws; only the
latter load the cluster to 185 %, and they are used here.

Mean slowdown of the schedulers on the unseen sequences (seed 314159) in both semantics; the reference loses each sequence's first job:

{known}
"""


def rows(header: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *lines])


def by_load(fresh: dict[str, Any], show: Callable[[dict[str, Any]], str]) -> str:
    """A line for everyone, a column for each load."""
    lines = [[name, *(show(found) if found else "not finished" for found in rates.values())] for name, rates in fresh.items()]
    return rows(["load", *(f"{LOAD * rate:.2f}" for rate in RATES)], lines)


def of_sjf(found: dict[str, Any]) -> str:
    ratio, low, high = found["of_sjf"]
    return f"{found['slowdown']:.2f}<br>{100 * ratio:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def further(found: dict[str, Any]) -> str:
    return f"{found['completion']:.1f}<br>{100 * found['utilisation']:.0f} %"


def curve_rows(curves: dict[str, Any]) -> list[list[str]]:
    """The known points beside ours."""
    lines = []
    for rate, points in KNOWN.items():
        line = curves.get(f"published, rate {rate}", {"return": []})["return"]
        for k in (200, 400):
            found = [f"{line[k]:.1f}", f"{round(100 * (line[k] - points[k]) / abs(points[k])):+d} %"] if k < len(line) else ["not run", ""]
            lines.append([f"{rate}", f"{k}", f"{points[k]:.1f}", *found])
    return lines


def page() -> None:
    """docs/deeprm.md and its pictures."""
    (fresh, known), curves, fast = read("judged.json").values(), read("curves.json"), read("speed.json")
    draw_slowdown(fresh)
    draw_curves(curves)
    both = "; ".join(f"{name} {c['seconds'] / 60:.0f} min for {c['steps']:,} decisions" for name, c in curves.items())
    ends = "; ".join(f"{name} {c['greedy']:.0f}, {c['return'][-1]:.0f}" for name, c in curves.items())
    text = TEXT.format(
        sequences=SEQUENCES,
        steps=STEPS,
        patience=PATIENCE,
        table=by_load(fresh, of_sjf),
        further=by_load(fresh, further),
        greedy="Greedy actions are no alternative: an empty slot lets time pass as well as the action that is meant to, and what a policy "
        "is likely to do with all of its slots together may be the likeliest with none of them. Mean return of 100 greedy episodes, and "
        f"at the end of training: {ends}.",
        curves=rows(["rate", "iteration", "return, reference", "return here", "better by"], curve_rows(curves)),
        took=f"What the runs took, start-up and evaluation included: {both}.",
        speed=f"An iteration of it, learning included, makes {fast['ours']:.0f} trajectories per second on {fast['cores']:.0f} cores. The "
        f"same learner with clusters in plain Python and NumPy (`tests/plain_deeprm.py`) makes {fast['plain']:.1f}: a factor of "
        f"{fast['ratio_median']:.0f} ({fast['ratio_min']:.0f} to {fast['ratio_max']:.0f}, measured in turns).",
        known=rows(
            ["rate", *(f"{name}, {semantics}" for name in schedulers.SCHEDULERS for semantics in deeprm.SEMANTICS)],
            [
                [
                    str(rate),
                    *(f"{known[semantics][name][str(rate)]:.3f}" for name in schedulers.SCHEDULERS for semantics in deeprm.SEMANTICS),
                ]
                for rate in RATES
            ],
        ),
    )
    write_text(PAGE, text)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    for name, text in (("train", "make the runs that are missing"), ("judge", "everyone on fresh jobs")):
        commands.add_parser(name, help=text).add_argument("--only", default="*", help="some learners by name")
    for name, text in (("speed", "beside plain NumPy"), ("page", "write the page")):
        commands.add_parser(name, help=text)
    given = parser.parse_args(arguments)
    only = getattr(given, "only", "*")
    for name, work in (("train", lambda: train(only)), ("judge", lambda: judge(only)), ("speed", speed), ("page", page)):
        if given.command in (None, name):
            work()


if __name__ == "__main__":
    main(sys.argv[1:])
