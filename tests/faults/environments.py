"""Environments that fail while a run learns from them."""

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from test_env_faults import LATER, WRONG, assert_fails

from faults.killing import ROWS, saved
from faults.processes import SMALL, Started, ended, sentence
from tfpg import build, metrics
from tfpg.config import configured
from tfpg.envs import gym, single
from tfpg.learner import initial_state

draw = random.Random(4)
ACTS = {
    "raise": "failed: ValueError: boom",
    "exit": "failed: SystemExit: 3",
    "die": "ended with exit code 17",
    "kill": "ended with exit code -9",
    "segfault": "ended with exit code -11",
    "hang": "did not answer within --env_timeout=0.5",
    "slow": "",
}
OURS = "faults.chance"


def failing(how: str, engine: str, restarts: int) -> list[str]:
    """A run of a random row whose environments fail at random instants. Without restarts it ends with a sentence; with them it goes on."""
    algo = draw.choice([name for name in ROWS if name != "pathwise"])
    flags = [*SMALL, f"--algo={algo}", "--env=faults/Chance-v0", "--envs=4", "--horizon=20", "--total_steps=800", "--seed=3"]
    flags += [f"--engine={engine}", f"--env_arguments=how={how},step=0.01,reset=0.01", f"--max_env_restarts={restarts}"]
    flags += ["--env_timeout=0.5"] if engine == "async" else []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run"
        code, err = ended(*flags, f"--workdir={path}", gym=OURS)
        rows = metrics.read(path)
        if code == 0:
            events = json.loads((path / "summary.json").read_text())["events"]
            struck = how == "slow" or (restarts > 0 and events["env_restarts"] > 0)
            wrong = bool(err) or rows[-1]["steps"] < 800 or bool(events["skipped"]) or not struck
        else:
            named = "of faults/Chance-v0" in err or "the worker process of environment" in err
            wrong = code != 1 or restarts > 0 or not sentence(err) or not named or ACTS.get(how, "") not in err
            wrong = wrong or (bool(rows) and saved(path) != rows[-1]["iteration"])
    return [f"{algo} {engine} {how} with {restarts} restarts: {code} {err[-300:]}"] if wrong else []


def at_once(how: str, engine: str) -> list[str]:
    """One of three environments fails at a random step or reset: found there, and named."""
    when, who = draw.randint(how in LATER, 8), draw.randrange(3)
    words = ACTS[how] if how in ACTS else {**WRONG, **LATER}[how][1]
    given = {"how": how, "when": when, "who": who}
    begun = time.monotonic()
    try:
        text = assert_fails(gym.ENGINES[engine]("faults/Failing-v0", 3, 0, "auto", given, gym.Care(timeout=0.5)), when, words)
    except (Exception, pytest.fail.Exception) as error:
        return [f"{given} {engine}: {' '.join(str(error).split())[:300]}"]
    found = [] if f"environment {who}" in text else [f"{given} {engine}: {text}"]
    return found + ([f"{given} {engine}: took {time.monotonic() - begun:.1f} s"] if time.monotonic() - begun > 5 else [])


def e1(count: int) -> list[str]:
    """Workers that raise, end, are killed, hang or are slow, in turn; every tenth in a run, with or without others to take their place."""
    found, names = [], [how for how in ACTS if how != "slow"]
    for i in range(count):
        how = names[i % len(names)]
        found += at_once(how, "async") if i % 10 else failing(draw.choice([how, "slow"]), "async", draw.choice([0, 1000]))
    return found


def e3(count: int) -> list[str]:
    """Observations, rewards and flags that are not what they should be, likewise."""
    found, names = [], [*WRONG, *LATER]
    for i in range(count):
        how, engine = names[i % len(names)], draw.choice(["sync", "async"])
        found += failing(how.replace(" ", "_"), engine, draw.choice([0, 1000])) if i % 10 == 0 else at_once(how, engine)
    return found


def learned(seed: int, arguments: str) -> int:
    """Steps until a greedy return of 400; -1 if it does not come."""
    flags = [*SMALL, "--hidden=64,64", "--env=faults/CartPole-v0", "--engine=async", "--envs=8", "--horizon=128", "--env_timeout=1"]
    flags += ["--max_env_restarts=1000000", "--total_steps=250000", "--stop_at_return=400", "--eval_every=2", "--eval_episodes=4"]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run"
        process = Started(*flags, f"--seed={seed}", f"--env_arguments={arguments}", f"--workdir={path}", gym=OURS)
        code, _ = process.end(1800)
        rows = metrics.read(path)
    return rows[-1]["steps"] if code == 0 and (rows[-1]["eval_return"] or 0) >= 400 else -1


def e2(count: int) -> list[str]:
    """CartPole to a return of 400, crashing in 0.05 % of its steps and 0.5 % of its resets, hanging in 0.01 %: at most 1.5 x the steps."""
    found = []
    for seed in range(count):
        calm, failing = learned(seed, ""), learned(seed, "step=0.0005,reset=0.005,hang=0.0001")
        if not 0 < failing <= 1.5 * calm:
            found.append(f"seed {seed}: {failing:,} steps, {calm:,} without failures")
    return found


def resident(process: Started) -> float:
    """Megabytes that a process has in memory."""
    pages = int(Path(f"/proc/{process.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def grown(flags: list[str]) -> float:
    """Megabytes by which a run of 1.5 million steps grows in its last million; the end, which evaluates and draws, is no part."""
    with tempfile.TemporaryDirectory() as directory:
        path, sizes = Path(directory) / "run", {}
        process = Started(*SMALL, *flags, "--total_steps=1500000", "--checkpoint_every=10", f"--workdir={path}")
        while process.running():
            rows = metrics.read(path)
            done = rows[-1]["steps"] if rows else 0
            if done:
                try:
                    sizes[done] = resident(process)
                except (FileNotFoundError, IndexError):
                    break
            time.sleep(0.2)
        process.end()
    early = [size for done, size in sizes.items() if 400_000 <= done <= 500_000]
    late = [size for done, size in sizes.items() if 1_400_000 <= done < 1_490_000]
    return max(late) - min(early)


def e4(count: int) -> list[str]:
    """Memory stays what it is over a million steps, of in-graph and of gymnasium environments."""
    ways = [["--algo=npg"], ["--algo=ppo", "--engine=sync", "--horizon=128"], ["--algo=a2c", "--engine=sync", "--horizon=64"]]
    growth = {" ".join(flags): grown(flags) for flags in ways[:count]}
    print(f"E4: {', '.join(f'{flags} {size:.1f} MB' for flags, size in growth.items())}", flush=True)
    return [f"{flags}: {size:.0f} MB" for flags, size in growth.items() if size >= 20]


def unchecked(monkeypatch: Any) -> None:
    """Takes away what looks at the environments' answers."""
    monkeypatch.setattr(gym.Sound, "check", lambda *_: None)
    monkeypatch.setattr(single.Plain, "step", lambda self, action: self.env.step(action))


def e5(pairs: int) -> list[str]:
    """Iterations of the cheapest environment with and without its checks, in turn: the ratio of lower quartiles says what they cost."""
    config = configured(algo="npg", engine="sync", envs=8, horizon=256)
    parts = build.setup(config)
    state, one = initial_state(parts.learner, tf.constant([1, 2])), tf.constant(1.0)
    parts.engine.begin(tf.constant([1, 2]))

    def seconds(seed: int, checked: bool) -> float:
        with pytest.MonkeyPatch.context() as monkeypatch:
            if not checked:
                unchecked(monkeypatch)
            begun = time.perf_counter()
            parts.engine.iterate(state, (), tf.constant([3, seed]), one)[2]["kl"].numpy()
            return time.perf_counter() - begun

    for k in range(5):
        seconds(k, True)
    found: dict[bool, list[float]] = {True: [], False: []}
    for k in range(pairs):
        for checked in (True, False) if k % 2 else (False, True):
            found[checked].append(seconds(k, checked))
    parts.engine.close()
    cost = np.quantile(found[True], 0.25) / np.quantile(found[False], 0.25) - 1  # this machine is shared: a quarter of them are quiet
    print(f"E5: checks take {cost:.1%} of the time without them", flush=True)
    return [f"{cost:.1%}"] if cost > 0.03 else []
