"""The comparison with peers: who runs when, what a ratio is, and what is not accepted as work."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bench_peers


def side(calls, who, values):
    left = iter(values)

    def run():
        calls.append(who)
        return {"value": next(left), "steps": len(calls)}

    return run


@pytest.mark.parametrize(("less", "ratios"), [(False, (2.0, 0.5, 3.0)), (True, (0.5, 1 / 3, 2.0))])
def test_sides_alternate_and_ratios_are_of_neighbours(less, ratios):
    calls = []
    case = bench_peers.Case("x", "s", 1.5, side(calls, "ours", [4.0, 1.0, 30.0]), side(calls, "peer", [2.0, 2.0, 10.0]), "what", less)
    row = bench_peers.compare(case, 3)
    assert calls == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert (row["ours"], row["peer"]) == (4.0, 2.0)
    assert (row["ratio_median"], row["ratio_min"], row["ratio_max"]) == pytest.approx(ratios)
    assert (row["goal"], row["unit"], row["what"]) == (1.5, "s", "what")
    assert (row["ours_steps"], row["peer_steps"]) == (1, 2)  # of the first process of each


def test_a_side_that_did_not_learn_is_no_side():
    found = {"first": 3.0, "seconds": [0.1, 0.3, 0.2], "steps": 40, "parameters": 9, "returns": [20.0, 25.0, 22.0]}
    assert bench_peers.learned(found) == {"value": pytest.approx(200), "first": 3.0, "parameters": 9, "return": 25.0}
    for returns in ([20.0, 19.0], [20.0], []):
        with pytest.raises(RuntimeError, match="did not learn"):
            bench_peers.learned({**found, "returns": returns})


def test_both_sides_of_a_case_have_as_many_parameters_and_steps():
    """Where they say so in their settings: rollouts, minibatches, passes, iterations of conjugate gradient."""
    assert bench_peers.TRPO["n_steps"] * 8 / bench_peers.TRPO["batch_size"] == 8  # tfpg's default: 8 minibatches, 5 passes, 10 products
    assert (bench_peers.TRPO["n_critic_updates"], bench_peers.TRPO["cg_max_steps"], bench_peers.TRPO["cg_damping"]) == (5, 10, 0.1)
    assert "--minibatches=1" in bench_peers.OURS_PPO
    assert bench_peers.PPO["n_steps"] * 8 == bench_peers.PPO["batch_size"]
    assert 8 * 256 / bench_peers.HOPPER["batch_size"] == 2 * 1024 / bench_peers.HOPPER["batch_size"] == 16
    assert "--critic_minibatches=16" in bench_peers.OURS_HOPPER


def test_what_one_process_measures_is_measured_once_for_each_pair(monkeypatch):
    """Ratios of neighbours are then of one process, whoever comes first."""
    runs = []

    def python(*arguments):
        runs.append(arguments[1:])
        return {"ours": 10.0 * len(runs), "peer": -1.0, "products": 5.0 * len(runs)}

    monkeypatch.setattr(bench_peers, "python", python)
    row = bench_peers.compare(bench_peers.Case("x", "s", 1.0, *bench_peers.halves("serve", "8", peer="products"), "what"), 3)
    assert runs == [("benchmarks/side.py", "serve", "8")] * 3
    assert (row["ratio_min"], row["ratio_max"]) == (2.0, 2.0)
    assert (row["ours"], row["peer"]) == (20.0, 10.0)


def test_a_case_that_is_none_is_named(capsys, monkeypatch):
    with pytest.raises(SystemExit, match="--only=nonsense is no case: npg_small, "):
        bench_peers.app.run(bench_peers.main, argv=["bench_peers.py", "--only=nonsense"])


def test_sides_that_train_different_networks_are_not_compared():
    ours, peer = (lambda size=size: {"value": 1.0, "parameters": size} for size in (9155, 9156))
    with pytest.raises(RuntimeError, match="9155 and 9156 parameters"):
        bench_peers.compare(bench_peers.Case("x", "s", 1.0, ours, peer, "what"), 1)
