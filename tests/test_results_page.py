"""docs/results.md is made from runs, and says no more than they do."""

import importlib.util
import json
import re
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
from program import call

from tfpg.errors import RunFault

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("results_page", ROOT / "benchmarks" / "results.py")
results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results)

TABLE = """
[sources]
"A paper" = "how it measures"

[high]
group = "First group"
flagfile = "task.flags"
seeds = [0, 1, 2]
claim = "Reaches its bar."
bar = 90
reference = [{ value = 91.5, text = "theirs, 1|2", source = "A paper" }]

[low]
group = "First group"
flagfile = "task.flags"
flags = ["--algo=npg"]
seeds = [0, 1, 2]
claim = "Does not."
bar = 90
note = "And why."

[versus]
group = "Second group"
flagfile = "task.flags"
seeds = [0, 1]
claim = "As good as the peer."
bar = "peer"
peer = { algo = "trpo", env = "Task-v0" }

[missing]
group = "Third group"
flagfile = "none.flags"
seeds = [0, 7]
claim = "Nobody ran it."
bar = 1
"""
FLAGS = "# A comment\n--algo=trpo\n--env=Pendulum-v1\n--total_steps=1000\n"


def put(root, name, seed, mean, **changes):
    """A made-up digest, with the flags that its experiment asks for."""
    experiment = next(e for e in results.load(root)[0] if e.name == name)
    flags = results.expected(root, experiment, seed)
    content = {
        "steps": 1000,
        "episodes": 10,
        "evaluation": {"mean": mean, "std_error": 1.0, "min": mean - 5, "max": mean + 5, "episodes": 100},
        "wall_seconds": 60.0 + seed,
        "first_iteration_seconds": 3.0,
        "steps_per_second": 100.0 + seed,
        "versions": {"python": "3.11.7", "tfpg": "0.1"},
        "device": "CPU:0",
        "counts": {"skipped": 0},
        "curve": {"steps": [250, 500, 750, 1000], "return_mean": [None, mean / 2, mean - 1, mean]},
        "flags": "\n".join(f"--{key}={value}" for key, value in flags.items()),
        **changes,
    }
    results.write_digest(root, name, seed, content)


def put_peer(root, seed, mean):
    peer = {"library": "their-library", "algo": "trpo", "env": "Task-v0", "steps": 1000, "curve": [[500, 1.0], [1000, mean]]}
    (root / results.PEERS).mkdir(parents=True, exist_ok=True)
    text = json.dumps({**peer, "evaluation": {"mean": mean}, "versions": {"torch": "9.9"}})
    (root / results.PEERS / f"trpo-Task-v0-seed{seed}.json").write_text(text)


@pytest.fixture
def tree(tmp_path):
    """A project with a table, a flagfile and nothing run."""
    for name, text in {results.TABLE: TABLE, "configs/task.flags": FLAGS}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def full(tree):
    """The same with made-up runs: one bar reached, one not, one equal to the peer's; one experiment without runs."""
    for seed, mean in enumerate([100.0, 95.0, 80.0]):
        put(tree, "high", seed, mean)
        put(tree, "low", seed, mean - 20)
    for seed, mean in enumerate([40.0, 50.0]):
        put(tree, "versus", seed, mean)
    for seed, mean in enumerate([44.0, 45.0, 46.0]):
        put_peer(tree, seed, mean)
    assert results.main(["page"], tree) == 0
    return tree


def cells(root, name):
    """The row of an experiment in the committed page, by the head of its column."""
    lines = [line for line in (root / results.PAGE).read_text("utf-8").splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    row = next(row for row in split if re.match(rf"\[?{name}\b", row[0]))
    return dict(zip(results.HEAD, row, strict=True))


IQM = "greedy return: interquartile mean [95 % band]"


# Statistics.


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 10, 13])
def test_interquartile_mean_is_an_integral_of_the_quantile_function(n, rng):
    x = 1 + rng.normal(size=n) ** 3
    p = 0.25 + 0.5 * (np.arange(100_000) + 0.5) / 100_000
    quantile = np.sort(x)[np.minimum((p * n).astype(int), n - 1)]
    np.testing.assert_allclose(results.interquartile_mean(x), np.mean(quantile), atol=1e-4)


def test_interquartile_mean_cuts_as_whole_values_where_it_can(rng):
    x = rng.normal(size=8)
    np.testing.assert_allclose(results.interquartile_mean(x), np.mean(np.sort(x)[2:6]), rtol=1e-14)


def test_interquartile_mean_ignores_what_is_far_out():
    assert results.interquartile_mean([-1e9, 1.0, 2.0, 3.0, 1e9]) == pytest.approx(2.0)


@pytest.mark.parametrize("n", range(1, 12))
@pytest.mark.parametrize("value", [500.0, 0.1, -83.1])
def test_interquartile_mean_of_equal_values_is_that_value(n, value):
    """A bar of 500 is reached by seeds that all return 500."""
    assert results.interquartile_mean([value] * n) == pytest.approx(value, rel=1e-15)
    assert results.interquartile_mean([500.0] * n) >= 500.0


def test_interquartile_mean_goes_along_an_axis(rng):
    x = rng.normal(size=(5, 3, 4))
    for axis in (0, 1, 2):
        expected = np.apply_along_axis(results.interquartile_mean, axis, x)
        np.testing.assert_allclose(results.interquartile_mean(x, axis), expected, rtol=1e-14)


def test_the_band_covers_the_truth_as_often_as_it_says(rng):
    """300 samples of 40: within 4 binomial deviations of 95 %, allowed the percentile bootstrap's known lack at this size (2 points)."""
    covered = 0
    for _ in range(300):
        low, high = results.band(rng.normal(3.0, 2.0, size=40))
        covered += low <= 3.0 <= high
    assert 0.95 - 0.02 - 4 * np.sqrt(0.95 * 0.05 / 300) < covered / 300 < 0.95 + 4 * np.sqrt(0.95 * 0.05 / 300)


def test_the_band_of_two_values_is_exact():
    """Resamples of (0, 1) have the means 0, 1/2 and 1, the outer ones with probability 1/4 each; equal values have no band."""
    assert results.band([0.0, 1.0]) == (0.0, 1.0)
    assert results.band([7.0, 7.0, 7.0]) == (7.0, 7.0)


def test_the_band_is_the_same_each_time_and_goes_along_curves(rng):
    x = rng.normal(size=(5, 6))
    low, high = results.band(x)
    assert low.shape == high.shape == (6,)
    np.testing.assert_allclose([results.band(x[:, 3])], [(low[3], high[3])], rtol=1e-12)


def test_curves_are_compared_where_all_of_them_are():
    curves = [{"steps": [100, 200, 300], "return_mean": [None, 2.0, 4.0]}, {"steps": [100, 200], "return_mean": [10.0, 30.0]}]
    grid, returns = results.common_curve(curves)
    assert (grid[0], grid[-1]) == (200, 200)
    assert returns[:, -1].tolist() == [2.0, 30.0]
    grid, returns = results.common_curve([curves[1], {"steps": [0, 200], "return_mean": [0.0, 2.0]}])
    assert (grid[0], grid[-1]) == (100, 200)
    np.testing.assert_allclose(returns, [10 + 0.2 * (grid - 100), grid / 100])
    assert results.common_curve([{"steps": [1], "return_mean": [None]}]) is None


# Digests.


def rows_of(episodes, means, **columns):
    return [{"steps": 10 * (i + 1), "episodes": e, "return_mean": m} for i, (e, m) in enumerate(zip(episodes, means, strict=True))]


def test_a_curve_is_the_mean_over_episodes():
    """Three episodes of return 1 and one of 5 are 2 on average, not 3; where none finished there is nothing."""
    rows = rows_of([3, 4, 4, 4, 6, 7], [1.0, 5.0, None, None, 2.0, 8.0])
    assert results.curve(rows, points=3) == {"steps": [20, 40, 60], "return_mean": [2.0, None, 4.0]}
    assert results.curve(rows)["return_mean"] == [1.0, 5.0, None, None, 2.0, 8.0]


def test_a_curve_has_few_points_and_ends_where_the_run_does():
    found = results.curve([{**row, "eval_return": None} for row in rows_of(range(1, 1004), [1.0] * 1003)])
    assert len(found["steps"]) == len(found["return_mean"]) == 200
    assert found["steps"][-1] == 10030
    assert "eval_return" not in found


def test_evaluations_are_kept():
    rows = [{**row, "eval_return": value} for row, value in zip(rows_of([1, 2, 3, 4], [0.0] * 4), [None, 6.0, 8.0, 10.0], strict=True)]
    assert results.curve(rows, points=2)["eval_return"] == [6.0, 9.0]


def test_the_digest_of_a_run(tmp_path, capfd):
    """Made from the directory of the program itself."""
    directory = tmp_path / "run"
    size = ["--total_steps=120", "--envs=3", "--horizon=20", "--hidden=4", "--eval_episodes=2", "--critic_epochs=1", "--tensorboard=false"]
    code, _, err = call(capfd, "--algo=npg", "--env=CartPole-v1", *size, "--jit=false", f"--workdir={directory}")
    assert code == 0, err
    found, summary = results.digest(directory), json.loads((directory / "summary.json").read_text())
    for name in ("steps", "episodes", "evaluation", "wall_seconds", "first_iteration_seconds", "steps_per_second", "versions", "device"):
        assert found[name] == summary[name], name
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert found["curve"]["steps"] == [60, 120]
    np.testing.assert_allclose(found["curve"]["return_mean"], [row["return_mean"] for row in rows], rtol=1e-5)
    assert found["counts"]["skipped"] == 0
    assert found["flags"].splitlines() == [line for line in (directory / "run.flags").read_text().splitlines() if line[0] != "#"]
    results.write_digest(tmp_path, "name", 4, found)
    text = (tmp_path / results.DIGESTS / "name-seed4.json").read_text()
    assert json.loads(text) == found
    assert len(text) < 8000
    # The policy that the run began with: --learning_rate and --kl_radius have not touched it yet.
    results.untrained(directory)
    begun = results.digest(directory)["untrained"]
    assert begun["episodes"] == 2
    assert 1 <= begun["mean"] <= 500
    (directory / "metrics.jsonl").write_text(json.dumps({**rows[0], "skipped": 1, "refused": 2}) + "\n" + json.dumps(rows[1])[:-20])
    assert results.digest(directory)["counts"] == {"skipped": 1, "refused": 2}
    (directory / "metrics.jsonl").write_text(json.dumps({"steps": 60, "episodes": 1, "return_mean": 9.0, "skipped": None}))
    assert results.digest(directory)["counts"] == {"skipped": 0}  # a column that is not there counts nothing, not even 0
    (directory / "summary.json").unlink()
    with pytest.raises(RunFault, match="is not a finished run"):
        results.digest(directory)


# The page.


def test_a_bar_that_is_reached(full):
    row = cells(full, "high")
    # 80, 95, 100 with weights 1/6, 2/3, 1/6
    assert row[IQM] == "93.3 [80.0, 100.0]"
    assert (row["worst seed"], row["bar"], row["reached"]) == ("80.0", "≥ 90", "yes")
    assert row["seeds"] == "0, 1, 2"
    assert row["reference figures"] == "91.5: theirs, 1&#124;2 (A paper)"
    assert (row["wall time"], row["steps/s"], row["steps"]) == ("1:01", "101", "1,000")
    assert row["peer on this machine"] == "–"
    assert row["experiment"] == "[high](../configs/task.flags)"


def test_a_bar_that_is_not_reached(full):
    row, text = cells(full, "low"), (full / results.PAGE).read_text("utf-8")
    assert (row[IQM], row["reached"]) == ("73.3 [60.0, 80.0]", "**no**")
    assert row["experiment"] == "[low](../configs/task.flags) `--algo=npg`"
    assert "- **low**: Does not. *And why.*" in text
    assert "Of 4 experiments 2 reach their bar, 1 do not, and 1 are not run" in text


def test_a_missing_run_is_not_invented(full):
    row = cells(full, "missing")
    assert row[IQM] == "not run"
    assert row["reached"] == "not run"
    assert {row[name] for name in ("steps", "worst seed", "wall time", "steps/s")} == {"–"}
    assert "](" not in row["experiment"]
    assert not (full / "docs/results/third_group.png").exists()
    assert "third_group" not in (full / results.PAGE).read_text("utf-8")


def test_the_peer_sets_the_bar(full):
    row = cells(full, "versus")
    assert row["bar"] == "≥ 45.0 (the peer's)"
    assert row["peer on this machine"] == "45.0, worst 44.0<br>their-library trpo, 1,000 steps, seeds 0, 1, 2"
    assert row["reached"] == "yes"
    put_peer(full, 1, 47.0)
    results.main(["page"], full)
    assert cells(full, "versus")["reached"] == "**no**"
    assert "- The peer's versions: torch 9.9.\n" in (full / results.PAGE).read_text("utf-8")


def test_without_the_peer_there_is_no_verdict(full):
    shutil.rmtree(full / results.PEERS)
    results.main(["page"], full)
    row = cells(full, "versus")
    assert (row["bar"], row["reached"], row["peer on this machine"]) == ("≥ ? (the peer's)", "not run: the peer", "not run")


def test_a_missing_seed_leaves_the_verdict_open(full):
    (full / results.DIGESTS / "high-seed1.json").unlink()
    results.main(["page"], full)
    row = cells(full, "high")
    assert (row[IQM], row["reached"], row["seeds"]) == ("90.0 [80.0, 100.0]", "not run: seeds 1", "0, 1, 2")


def test_a_run_with_other_flags_does_not_count(full):
    (full / "configs/task.flags").write_text(FLAGS.replace("1000", "2000"))
    put(full, "high", 2, 99.0)
    results.main(["page"], full)
    assert cells(full, "high")[IQM] == "99.0"
    assert cells(full, "high")["reached"] == "not run: seeds 0, 1 (seeds 0, 1 were run with other flags)"


def test_what_only_watches_may_differ(full):
    path = full / results.DIGESTS / "high-seed1.json"
    path.write_text(path.read_text().replace("--progress=auto", "--progress=none"))
    results.main(["page"], full)
    assert cells(full, "high")["reached"] == "yes"
    path.write_text(path.read_text().replace("--eval_episodes=100", "--eval_episodes=1"))
    results.main(["page"], full)
    assert cells(full, "high")["reached"].startswith("not run: seeds 1 ")


def test_how_it_was_measured_comes_from_the_runs(full):
    text = (full / results.PAGE).read_text("utf-8")
    for line in (
        "- Greedy episodes per evaluation: 100.",
        "- Devices: CPU:0.",
        "- Versions: python 3.11.7.",
        "- A paper: how it measures.",
    ):
        assert f"\n{line}\n" in text
    assert "updates were" not in text
    put(full, "high", 1, 95.0, counts={"skipped": 2, "refused": 0}, device="GPU:0", threads=4)
    results.main(["page"], full)
    text = (full / results.PAGE).read_text("utf-8")
    assert "In its 3 runs 2 updates were skipped.\n" in text
    assert "- Devices: CPU:0; GPU:0, 4 threads.\n" in text


def test_flags_and_seeds_of_each_row(full):
    text = (full / results.PAGE).read_text("utf-8")
    blocks = dict(re.findall(r"<summary>(\w+): seeds .*?</summary>\n\n```text\n(.*?)```", text, re.S))
    assert list(blocks) == ["high", "low", "versus", "missing"]
    assert blocks["low"].startswith("python run.py --flagfile=configs/task.flags --algo=npg --seed=K\n--algo=npg\n")
    assert "--total_steps=1000\n" in blocks["high"]
    assert "--kl_radius=" in blocks["high"]
    assert "--seed=0" not in text
    assert "seeds 0, 7</summary>" in text


def edit(root, old, new):
    text = (root / results.TABLE).read_text()
    assert old in text
    (root / results.TABLE).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("kind", "direction", "bar", "reached"),
    [
        *[("iqm", "up", 93.34, "**no**"), ("iqm", "up", 93.33, "yes"), ("worst", "up", 80, "yes"), ("worst", "up", 80.1, "**no**")],
        *[("mean", "up", 91.6, "yes"), ("mean", "up", 91.7, "**no**"), ("worst", "down", 100, "yes"), ("worst", "down", 99.9, "**no**")],
        ("iqm", "down", 93.33, "**no**"),
    ],
)
def test_which_number_has_to_reach_the_bar(full, kind, direction, bar, reached):
    edit(full, "bar = 90\nreference", f'bar = {bar}\nbar_kind = "{kind}"\ndirection = "{direction}"\nreference')
    results.main(["page"], full)
    assert cells(full, "high")["reached"] == reached
    assert cells(full, "high")["worst seed"] == {"up": "80.0", "down": "100.0"}[direction]


def test_rounding_does_not_make_a_miss_look_like_a_hit(full):
    edit(full, "bar = 90\nreference", "bar = 93.34\nreference")
    for seed in range(3):
        put(full, "high", seed, 93.3399)
    results.main(["page"], full)
    assert cells(full, "high")[IQM].startswith("93.3399 ")
    assert cells(full, "high")["reached"] == "**no**"


@pytest.mark.parametrize(("margin", "reached"), [(83.3, "yes"), (83.4, "**no**")])
def test_a_bar_above_the_untrained_policy(full, margin, reached):
    edit(full, "bar = 90\nreference", f"start = {margin}\nreference")
    results.main(["page"], full)
    assert cells(full, "high")["reached"] == "not run: the untrained policy"
    for seed, mean in enumerate([100.0, 95.0, 80.0]):
        put(full, "high", seed, mean, untrained={"mean": 9.0 + seed})
    results.main(["page"], full)
    assert cells(full, "high")["bar"] == f"≥ {10 + margin:.1f} (untrained, +{margin})"
    assert cells(full, "high")["reached"] == reached


def test_every_bar_of_an_experiment_counts(full):
    """93.3 reaches 90, and does not reach 9 + 100."""
    edit(full, "bar = 90\nreference", "bar = 90\nstart = 100\nreference")
    for seed, mean in enumerate([100.0, 95.0, 80.0]):
        put(full, "high", seed, mean, untrained={"mean": 9.0})
    results.main(["page"], full)
    assert cells(full, "high")["bar"] == "≥ 90<br>≥ 109.0 (untrained, +100)"
    assert cells(full, "high")["reached"] == "**no**"


@pytest.mark.parametrize(("within", "reached"), [(0.5, "yes"), (0.05, "**no**")])
def test_a_bar_near_an_exact_optimum(full, within, reached):
    """The optimum is 120, so that half of it is 60 and 95 % of it 114; 93.3 was reached."""
    edit(full, "bar = 90\nreference", f'optimum = "math:factorial_of_five"\nwithin = {within}\nreference')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("math.factorial_of_five", lambda: 120.0, raising=False)
        results.main(["page"], full)
    assert cells(full, "high")["bar"].endswith("of the exact optimum 120.0)")
    assert cells(full, "high")["reached"] == reached


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("bar = 90\nnote", "baar = 90\nnote", "[low] has baar, which is unknown. Did you mean bar?"),
        ("seeds = [0, 7]\n", "", "[missing] lacks seeds."),
        ("seeds = [0, 7]", "seeds = [7, 7]", "[missing] names a seed twice."),
        ("bar = 1\n", 'bar = "peer"\n', '[missing] has bar = "peer": a number is allowed, or "peer" where there is a peer.'),
        ("bar = 1\n", 'bar = 1\nbar_kind = "best"\n', "[missing] has bar_kind = best: iqm, worst, mean are allowed."),
        ("bar = 1\n", 'optimum = "a:b"\n', "[missing] has one of optimum and within: they go together."),
        (
            'source = "A paper"',
            'source = "Another"',
            "[high] has a reference that is not { value, text, source } with a source of [sources]",
        ),
        ('"--algo=npg"', '"--algoo=npg"', "configs/task.flags, as [low] uses it: --algoo is not a flag."),
    ],
)
def test_mistakes_in_the_table_are_named(full, capsys, old, new, sentence):
    edit(full, old, new)
    assert results.main(["page"], full) == 2
    assert sentence in capsys.readouterr().err


# Pictures, and what is stale.


def test_a_fresh_page_is_not_stale(full, capsys):
    assert results.main(["--check"], full) == 0
    assert capsys.readouterr().out == "docs/results.md and its pictures are up to date.\n"
    from matplotlib.image import imread

    for name in ("first_group", "second_group"):
        picture = imread(full / f"docs/results/{name}.png")
        assert picture.shape[1] >= 700
        assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 10


def test_pictures_hold_the_curves_the_bars_and_the_peer(full):
    experiments, _ = results.load(full)
    first, second = results.pictures_of([results.gather(full, experiment) for experiment in experiments]).values()
    assert list(first.panels) == ["Pendulum-v1"]
    assert [(line.label, line.bars, len(line.curves)) for line in first.panels["Pendulum-v1"]] == [("trpo", [90.0], 3), ("npg", [90.0], 3)]
    ours, peer = second.panels["Pendulum-v1"]
    assert (ours.bars, peer.label, peer.peer, len(peer.curves)) == ([45.0], "their-library trpo", True, 3)
    assert peer.curves[2] == {"steps": [500, 1000], "return_mean": [1.0, 46.0]}


PAGE_STALE, FIRST_STALE, SECOND_STALE, THIRD_STALE = (
    f"docs/results{name} is stale: `make results` writes it anew."
    for name in (".md", "/first_group.png", "/second_group.png", "/third_group.png")
)


def put_missing(root):
    (root / "configs/none.flags").write_text(FLAGS)
    put(root, "missing", 0, 1.0)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda root: put(root, "high", 1, 95.5), [PAGE_STALE, FIRST_STALE]),
        (put_missing, [PAGE_STALE, THIRD_STALE]),
        (lambda root: put_peer(root, 0, 43.0), [PAGE_STALE, SECOND_STALE]),
        (lambda root: edit(root, "Nobody ran it.", "Somebody ran it."), [PAGE_STALE]),
        (lambda root: edit(root, "bar = 90\nnote", "bar = 91\nnote"), [PAGE_STALE, FIRST_STALE]),
        (lambda root: (root / results.PAGE).write_text("# Results\n"), [PAGE_STALE]),
        (lambda root: (root / results.PAGE).unlink(), [PAGE_STALE]),
        (lambda root: (root / "docs/results/first_group.png").unlink(), [FIRST_STALE]),
        (lambda root: (root / "docs/results/first_group.png").write_bytes(b"x"), [FIRST_STALE]),
        (lambda root: shutil.copy(root / "docs/results/second_group.png", root / "docs/results/first_group.png"), [FIRST_STALE]),
    ],
    ids=["digest", "new digest", "peer", "claim", "bar", "typed by hand", "no page", "no picture", "no image", "wrong picture"],
)
def test_a_stale_page_is_found(full, capsys, change, found):
    change(full)
    assert results.main(["page", "--check"], full) == 1
    assert capsys.readouterr().out.splitlines() == found
    assert results.main(["page"], full) == 0
    assert results.main(["page", "--check"], full) == 0


def test_the_page_of_the_project_is_up_to_date(capsys):
    if results.main(["page", "--check"]) != 0:
        pytest.fail(capsys.readouterr().out, pytrace=False)


# Running.

FAKE = """
import json, os, sys, time
from pathlib import Path

sys.path.insert(0, {root!r})
import run
from tfpg import workdir

config, given = run.parse(sys.argv[1:])
directory = Path(config.workdir)
if config.resume:
    config = workdir.merge(run.parse([f"--flagfile={{directory / 'run.flags'}}"])[0], given)
print("arguments", *sys.argv[1:])
if config.seed == 2:
    print("It broke.")
    sys.exit(3)
directory.mkdir(parents=True, exist_ok=True)
(directory / "run.flags").write_text(workdir.flagfile(config))
mean = config.total_steps + config.seed
row = {{"steps": 5, "episodes": 1, "return_mean": 1.0, "skipped": 0}}
(directory / "metrics.jsonl").write_text(json.dumps(row))
summary = dict.fromkeys({required!r}, 1)
(directory / "summary.json").write_text(json.dumps({{**summary, "evaluation": {{"mean": mean}}, "versions": {{}}}}))
"""


@pytest.fixture
def runnable(tree):
    (tree / "run.py").write_text(textwrap.dedent(FAKE).format(root=str(ROOT), required=results.REQUIRED))
    return tree


def told(root, name):
    return [line for line in (root / results.RUNS / f"{name}.log").read_text().splitlines() if line.startswith("arguments")]


def test_missing_runs_are_made_and_a_failure_stops_no_other(runnable, capsys):
    assert results.main(["run", "--only=high", "--workers=2"], runnable) == 1
    out = capsys.readouterr().out
    assert "high seed 2: FAILED, exit code 3: It broke. (runs/results/high/seed2.log has more)" in out
    assert out.splitlines()[-1] == "2 of 3 runs are there. Failed: high seed 2."
    assert sorted(path.name for path in (runnable / results.DIGESTS).iterdir()) == ["high-seed0.json", "high-seed1.json"]
    assert json.loads((runnable / results.DIGESTS / "high-seed1.json").read_text())["evaluation"] == {"mean": 1001}
    assert told(runnable, "high/seed0") == ["arguments --flagfile=configs/task.flags --seed=0 --workdir=runs/results/high/seed0"]


def test_further_flags_are_passed_on(runnable):
    assert results.main(["run", "--only=low-seed1"], runnable) == 0
    assert told(runnable, "low/seed1") == ["arguments --flagfile=configs/task.flags --algo=npg --seed=1 --workdir=runs/results/low/seed1"]


def test_what_is_done_is_not_run_again(runnable, capsys):
    results.main(["run", "--only=high-seed0"], runnable)
    (runnable / results.DIGESTS / "high-seed0.json").unlink()
    assert results.main(["run", "--only=high-seed0"], runnable) == 0
    assert "high seed 0: was there" in capsys.readouterr().out
    assert len(told(runnable, "high/seed0")) == 1
    assert (runnable / results.DIGESTS / "high-seed0.json").exists()


def test_a_run_cut_short_is_resumed_from_its_checkpoint_or_begun_anew(runnable):
    directory = runnable / results.RUNS / "high/seed0"
    results.main(["run", "--only=high-seed0"], runnable)
    (directory / "summary.json").unlink()
    (directory / "checkpoints/3").mkdir(parents=True)
    assert results.main(["run", "--only=high-seed0"], runnable) == 0
    assert told(runnable, "high/seed0")[1:] == ["arguments --resume --workdir=runs/results/high/seed0"]
    (directory / "summary.json").unlink()
    shutil.rmtree(directory / "checkpoints")
    (directory / "left").touch()
    assert results.main(["run", "--only=high-seed0"], runnable) == 0
    assert told(runnable, "high/seed0")[2:] == ["arguments --flagfile=configs/task.flags --seed=0 --workdir=runs/results/high/seed0"]
    assert not (directory / "left").exists()


def test_a_run_with_other_flags_is_left_alone(runnable, capsys):
    results.main(["run", "--only=high-seed0"], runnable)
    (runnable / "configs/task.flags").write_text(FLAGS.replace("1000", "3000"))
    assert results.main(["run", "--only=high-seed0"], runnable) == 1
    assert "was made with other flags (--total_steps=1000 is not 3000): delete or move it to run anew." in capsys.readouterr().out
    assert len(told(runnable, "high/seed0")) == 1


def test_a_run_that_another_process_is_at_work_on_is_left_alone(runnable, capsys):
    import fcntl

    log = runnable / results.RUNS / "high/seed0.log"
    log.parent.mkdir(parents=True)
    with log.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert results.main(["run", "--only=high-seed0"], runnable) == 1
    assert "high seed 0: FAILED, another process is running it." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--only=hihg"], "--only=hihg matches no experiment of benchmarks/experiments.toml. Did you mean high?"),
        (["run", "--workers=0"], "--workers=0 is out of range: 1 or more are allowed."),
    ],
)
def test_mistakes_of_the_command_line_are_named(runnable, capsys, arguments, sentence):
    assert results.main(arguments, runnable) == 2
    assert capsys.readouterr().err == f"results.py: {sentence}\n"


def test_an_experiment_without_its_flagfile_fails_by_name(runnable, capsys):
    assert results.main(["run", "--only=missing-seed7"], runnable) == 1
    assert "missing seed 7: FAILED, configs/none.flags is not there." in capsys.readouterr().out


def test_a_new_flag_does_not_undo_old_runs():
    """A flag that the run's file does not have yet had its default then."""
    wanted = results.as_table(results.workdir.flagfile(results.Config()))
    had = "\n".join(f"--{name}={value}" for name, value in wanted.items() if name != "damping")
    assert results.differences(wanted, had) == []
    assert results.differences({**wanted, "damping": "0.3"}, had) == ["--damping=0.1 is not 0.3"]
    assert results.differences(wanted, had + "\n--gone=1") == ["--gone=1 is not None"]
