"""A fast part of `make faults`, that it notices what it is there for, and that its page is the one of its results."""

import pytest
import tensorflow as tf
from faults import __main__ as faults
from faults import disks, killing, malformed, processes

from tfpg import checkpoint


@pytest.mark.parametrize(
    ("name", "count"), [("K4", 60), ("C1", 150), ("C1p", 12), ("S1", 500), ("S1c", 500), ("E3", 20), ("K1 actor_critic", 2)]
)
def test_what_is_promised_holds(name, count):
    try:
        assert faults.CHECKS[name].of(count) == []
    except faults.NotRunError as why:
        pytest.skip(str(why))


def test_a_checkpoint_that_is_not_looked_at_is_a_failure(monkeypatch):
    monkeypatch.setattr(checkpoint, "_digest", lambda path: "always the same")
    monkeypatch.setattr(disks, "damage", lambda path: (path / "state.index").write_bytes(b"") or "emptied")
    assert len(disks.k4(3)) == 3


def test_a_policy_that_takes_anything_is_a_failure(monkeypatch, tmp_path):
    class Open(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="observation")])
        def act(self, observation):
            return {"action": observation}

    def policy(path):
        tf.saved_model.save(module := Open(), str(path / "1"), {"serving_default": module.act})
        return path / "1"

    monkeypatch.setattr(malformed, "policy", policy)
    assert any("was answered" in line for line in malformed.s1(100))


def test_runs_that_differ_are_a_failure(tmp_path):
    """In their seed; in what was evaluated; and one that ends by itself with an error is no run that was killed."""
    short = [*processes.SMALL, "--horizon=40", "--total_steps=640"]
    for name, flags in {"a": [], "b": ["--seed=1"], "c": ["--eval_every=1"]}.items():
        assert processes.ended(*short, *flags, f"--workdir={tmp_path}/{name}") == (0, "")
    assert killing.same(tmp_path / "a", tmp_path / "a") == []
    assert {"other tensors", "other metrics"} <= set(killing.same(tmp_path / "a", tmp_path / "b"))
    assert "other metrics" in killing.same(tmp_path / "a", tmp_path / "c")
    code, err = processes.ended(*short, "--nothing")
    assert code == 2
    assert processes.sentence(err)


def test_the_page_is_of_its_results():
    assert faults.PAGE.read_text() == faults.table(faults.known())
