"""Traced programs that are kept: the same program, found again by what it depends on, never taken where something differs or is damaged."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import program
import pytest
import tensorflow as tf
from google.protobuf import text_format

from tfpg import acting, build, traces, train
from tfpg.config import FREE, PLACES, check, configured, settled

ROOT = Path(traces.__file__).parent.parent
SHIFT = np.float32([10, 20])


class Pair(NamedTuple):
    a: tf.Tensor
    b: tf.Tensor


@pytest.fixture
def traced(monkeypatch):
    """How often anything was traced: a list that grows."""
    found, real = [], acting.traced
    monkeypatch.setattr(acting, "traced", lambda *given: found.append(given) or real(*given))
    return found


def function(pair, x, empty):
    """Calls, branches, loops, a compiled function inside another, a captured tensor, names in an order of their own."""
    inner = tf.function(lambda y: tf.tanh(y) * 2, jit_compile=True, autograph=False)
    middle = tf.function(lambda y: inner(y) + tf.constant(SHIFT), autograph=False)
    branch = tf.cond(tf.reduce_sum(x) > 0, lambda: middle(x), lambda: x - 1)
    (_, looped) = tf.while_loop(lambda k, _: k < 3, lambda k, y: (k + 1, y + middle(pair.b)), (tf.constant(0), pair.a))
    return pair._replace(a=looped), empty, {"z": branch, "a": (pair.b + captured, x * 3)}


captured = tf.constant([0.5, -0.5])
ARGUMENTS = [(Pair(tf.constant([1.0, 2.0]), tf.constant([3.0, k])), np.float32([k, -1.5]), ()) for k in (5.0, 0.25)]


def flat(nest):
    return [np.asarray(leaf) for leaf in tf.nest.flatten(nest)]


def test_a_kept_program_is_its_function_and_is_not_traced_again(tmp_path, traced):
    for times in (1, 2):
        program = traces.keeping(tmp_path, "facts")(function, "name")
        for given in ARGUMENTS:
            found, expected = program(*given), acting.direct(function)(*given)
            tf.nest.assert_same_structure(found, expected)
            assert list(found[2]) == ["z", "a"]
            assert type(found[0]) is Pair
            for left, right in zip(flat(found), flat(expected), strict=True):
                np.testing.assert_array_equal(left, right)
                assert left.dtype == right.dtype
        assert len(traced) - 2 * times == 1  # `direct` traces each time


def begun(folder, facts="facts", name="name", given=ARGUMENTS[0]):
    return flat(traces.keeping(folder, facts)(function, name)(*given))


def test_whatever_differs_is_traced_anew(tmp_path, traced, monkeypatch):
    begun(tmp_path)
    wide = (Pair(tf.constant([[1.0, 2.0]]), tf.constant([3.0, 4.0])), np.float32([1, -1.5]), ())
    double = (ARGUMENTS[0][0], np.float64([5, -1.5]), ())
    for k, more in enumerate(({"facts": "other"}, {"name": "other"}, {"given": wide}), start=2):
        begun(tmp_path, **more)
        assert len(traced) == k
    with pytest.raises((TypeError, ValueError)):  # another type: not the program that is kept, which would take it for what it is not
        begun(tmp_path, given=double)
    assert len(traced) == 5
    monkeypatch.setattr(traces, "sources", lambda: b"other sources")
    begun(tmp_path)
    assert len(traced) == 6
    assert len(list(tmp_path.iterdir())) == 5


def test_a_damaged_file_counts_as_none(tmp_path, traced):
    expected = begun(tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    places = (0, traces.SEAL - 1, traces.SEAL, len(whole) // 2, len(whole) - 1)
    flipped = [whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :] for k in places]
    for k, damaged in enumerate([*flipped, b"", whole[: traces.SEAL], whole[:-1], whole + b"\0"], start=2):
        file.write_bytes(damaged)
        for left, right in zip(begun(tmp_path), expected, strict=True):
            np.testing.assert_array_equal(left, right)
        assert len(traced) == k
        assert traces.read(file) is not None
        assert list(tmp_path.iterdir()) == [file]


def test_without_a_folder_to_write_to_it_runs_all_the_same(tmp_path):
    for left, right in zip(begun(tmp_path / "gone"), begun(tmp_path), strict=True):
        np.testing.assert_array_equal(left, right)


def test_outputs_that_are_like_nothing_are_not_guessed():
    with pytest.raises(ValueError, match="Pair is like no argument"):
        traces.outline(ARGUMENTS[0][0], (captured,))
    assert traces.like(traces.outline({"x": captured}, (captured,)), (captured,)) == {"x": None}


def test_every_source_counts(tmp_path):
    root = Path(traces.__file__).parent
    names = [path.relative_to(root) for path in root.rglob("*.py")]
    assert {Path("traces.py"), Path("envs/cartpole.py"), Path("update.py")} <= set(names)
    (tmp_path / "envs").mkdir()
    seen = {traces.sources(tmp_path)}
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("envs/b.py", ""), ("envs/b.py", "1")):
        (tmp_path / name).write_text(text)
        seen.add(traces.sources(tmp_path))
    (tmp_path / "envs" / "b.py").rename(tmp_path / "envs" / "c.py")
    seen.add(traces.sources(tmp_path))
    assert len(seen) == 6
    assert traces.sources() == traces.sources(root)


SMALL = {"envs": 8, "horizon": 40, "hidden": "8", "eval_episodes": 3, "jit": "false"}
RUNS = {
    "npg": {},
    "compiled": {"algo": "reinforce_togo", "jit": "true"},
    "off_policy": {"algo": "off_policy"},
    "pathwise": {"algo": "pathwise", "env": "Pendulum-v1"},
    "recurrent": {"algo": "ppo", "network": "gru", "minibatches": 2, "env": "tfpg/MaskedCartPole-v1"},
    "simulator": {"algo": "ppo", "env": "Pendulum-v1", "engine": "sync"},
    "small_batch": {"algo": "a2c", "engine": "sync", "horizon": 5},
}


def made(folder, **flags):
    config = settled(check(configured(**{**SMALL, **flags})))
    run = train.Run(config, Path(os.devnull), build.setup(config, folder))
    run.begin()
    rows = [run.iterate() for _ in range(2)]
    returns = run.judge("result", run.state)
    run.parts.engine.close()
    times = {"seconds", "steps_per_second"}
    return flat((run.state, run.carry)), [{k: v for k, v in row.items() if k not in times} for row in rows], returns


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_same_with_programs_traced_now_or_found(name, tmp_path, traced):
    plain, first = made(None, **RUNS[name]), made(tmp_path, **RUNS[name])
    before = len(traced)
    later = made(tmp_path, **RUNS[name])
    small = {"simulator": 2, "small_batch": 2}  # choosing actions and judging are read from their traces: acting.program
    assert len(traced) - before == small.get(name, 0)
    for run in (first, later):
        np.testing.assert_equal(run[1], plain[1])
        np.testing.assert_array_equal(run[2], plain[2])
        for left, right in zip(run[0], plain[0], strict=True):
            np.testing.assert_array_equal(left, right)


OTHER = {
    "total_steps": 6_400_000,
    "stop_at_return": 400.0,
    "checkpoint_every": 7,
    "progress": "none",
    "tensorboard": False,
    "eval_every": 4,
    "eval_episodes": 5,
    "env_timeout": 3.0,
    "max_env_restarts": 2,
    "check_bounds": True,
    "select": "best",
    "device": "cpu",
    "seed": 3,
    "num_seeds": 2,
}


def numberless(graph):
    """A program as text, without the numbers that TensorFlow gives to what it traces in a process, and what is made of them."""
    return re.sub(r"kept_[0-9a-f]{24}|\d+___redundant", "", text_format.MessageToString(graph))


@pytest.mark.parametrize("engine", ["graph", "sync"])
def test_flags_that_a_trace_does_not_depend_on_leave_it_as_it_is(engine, tmp_path):
    """FREE and the seeds, but for flags that say where a run lies: runs that differ in them share their programs."""
    assert {*OTHER, *PLACES} == {*FREE, "seed", "num_seeds"}
    files = []
    for k, more in enumerate(({}, OTHER)):
        config = configured(**{**SMALL, "algo": "ppo", "engine": engine, **more})
        assert all(getattr(config, name) != getattr(configured(), name) for name in more)
        folder = tmp_path / str(k)
        folder.mkdir()
        run = train.Run(config, Path(os.devnull), build.setup(config, folder))
        run.begin()
        run.iterate()
        run.parts.engine.close()
        files.append({path.name: numberless(traces.read(path)) for path in folder.iterdir()})
    assert files[0] == files[1]
    assert len(files[0]) == {"graph": 1, "sync": 2}[engine]


def test_whether_xla_compiles_is_part_of_what_is_asked_for(tmp_path, monkeypatch):
    """--jit=auto decides it by the budget, which is not."""
    facts, spaces = [], build.setup(configured()).spaces
    monkeypatch.setattr(traces, "keeping", lambda _, told: facts.append(told))
    for steps in (1000, 1001, 10_000_000):
        build.keeping(configured(total_steps=steps), spaces, tmp_path)
    assert facts[0] == facts[1] != facts[2]


def test_environments_of_others_keep_nothing(tmp_path, monkeypatch):
    """Their sources are not looked at."""
    spaces = build.setup(configured()).spaces
    assert build.keeping(configured(), spaces, tmp_path) is not acting.direct
    assert build.keeping(configured(), spaces, None) is acting.direct
    monkeypatch.setitem(build.IN_GRAPH, "CartPole-v1", lambda: None)
    assert build.keeping(configured(), spaces, tmp_path) is acting.direct


def test_a_later_process_finds_them(tmp_path):
    """Another seed, another budget, and the bits of a run that keeps nothing."""
    rows = []
    for k, (cache, seed, steps) in enumerate((("kept", 1, 320), ("kept", 2, 640), ("none", 2, 640))):
        flags = ["--algo=npg", "--envs=8", "--horizon=40", "--hidden=8", "--eval_episodes=3", "--progress=none", f"--total_steps={steps}"]
        place = "none" if cache == "none" else tmp_path / cache
        command = [sys.executable, "run.py", *flags, f"--seed={seed}", f"--workdir={tmp_path / str(k)}", f"--cache={place}"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        rows.append(program.rows_without_times(tmp_path / str(k)))
        if k == 0:
            before = sorted(path.name for path in (tmp_path / "kept").rglob("trace-*"))
    assert rows[1] == rows[2] != rows[0]
    assert len(before) == 2  # iterating and judging
    assert sorted(path.name for path in (tmp_path / "kept").rglob("trace-*")) == before
