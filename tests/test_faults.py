"""A fast part of `make faults`, and that its page is the one of its results."""

import faults
import pytest
import tensorflow as tf

from tfpg import checkpoint


@pytest.mark.parametrize(("name", "count"), [("K4", 60), ("C1", 150), ("S1", 500)])
def test_what_is_promised_holds(name, count):
    assert faults.CHECKS[name].of(count) == []


def test_a_checkpoint_that_is_not_looked_at_is_a_failure(monkeypatch):
    monkeypatch.setattr(checkpoint, "_digest", lambda path: "always the same")
    monkeypatch.setattr(faults, "damage", lambda path: (path / "state.index").write_bytes(b"") or "emptied")
    assert len(faults.k4(3)) == 3


def test_a_policy_that_takes_anything_is_a_failure(monkeypatch, tmp_path):
    class Open(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="observation")])
        def act(self, observation):
            return {"action": observation}

    def policy(path):
        tf.saved_model.save(module := Open(), str(path / "1"), {"serving_default": module.act})
        return path / "1"

    monkeypatch.setattr(faults, "_policy", policy)
    assert any("was answered" in line for line in faults.s1(100))


def test_the_page_is_of_its_results():
    assert faults.PAGE.read_text() == faults.table(faults.json.loads(faults.RESULTS.read_text()))
