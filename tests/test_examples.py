"""The examples do what they say, and say what is wrong with what they are given."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from examples import schedule
from tfpg import build, export
from tfpg.config import configured
from tfpg.envs import deeprm
from tfpg.learner import initial_state

ROOT = Path(__file__).parent.parent
HEAD = "arrival,length,units_1,units_2\n"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """The policy directory of a scheduler that has learned nothing."""
    learner = build.make_learner(configured(algo="reinforce_togo", hidden="8"), deeprm.make().spaces)
    where = tmp_path_factory.mktemp("run") / "policy"
    export.export(where, learner, initial_state(learner, tf.constant([3, 1])), deeprm.make().spaces)
    return where


def call(capsys, *arguments):
    code = schedule.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_schedule_keeps_to_the_cluster(policy, capsys):
    """Each job starts once it has arrived; no unit is given twice; what the summary says follows from the lines."""
    code, out, err = call(capsys, f"--policy={policy}", "--seed=3", ROOT / "examples" / "jobs.csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    given = list(csv.DictReader((ROOT / "examples" / "jobs.csv").open()))
    assert [{key: row[key] for key in given[0]} for row in rows] == given
    numbers = np.array([[float(value) for value in row.values()] for row in rows])
    arrival, length, *units, start, finish, slowdown = numbers.T
    used = np.zeros([int(finish.max()), 2])
    for begin, end, *size in zip(start, finish, *units, strict=True):
        used[int(begin) : int(end)] += size
    assert used.max() <= 10
    assert (start >= arrival).all()
    np.testing.assert_array_equal(finish, start + length)
    np.testing.assert_allclose(slowdown, (finish - arrival) / length, atol=0.005)
    assert f"{len(given)} jobs: mean slowdown {((finish - arrival) / length).mean():.2f}; SJF has " in err
    assert call(capsys, f"--policy={policy}", "--seed=3", ROOT / "examples" / "jobs.csv")[1] == out
    assert call(capsys, f"--policy={policy}", "--seed=4", ROOT / "examples" / "jobs.csv")[1] != out


MISTAKES = {
    "": ["line 1", "heading", "arrival,length,units_1,units_2"],
    "arrival,length\n": ["line 1", "heading"],
    HEAD: ["no jobs"],
    f"{HEAD}0,1,1,1\n1,2,x,1\n": ["line 3", "units_1 is x", "from 0 to 10"],
    f"{HEAD}0,1,1,11\n": ["line 2", "units_2 is 11", "from 0 to 10"],
    f"{HEAD}0,21,1,1\n": ["line 2", "length is 21", "from 1 to 20"],
    f"{HEAD}0,0,1,1\n": ["line 2", "length is 0"],
    f"{HEAD}-1,2,1,1\n": ["line 2", "arrival is -1"],
    f"{HEAD}0,2,1\n": ["line 2", "3 columns", "4 are needed"],
    f"{HEAD}\n4,2,1,1\n\n4,2,1,1\n": ["line 5", "arrival is 4 after 4", "one per step"],
    f"{HEAD}0,2,,1\n": ["line 2", "units_1 is empty"],
    f"{HEAD}0,٣,1,1\n": ["line 2", "length is ٣"],
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_the_file_is_named_with_its_line(text, policy, capsys, tmp_path):
    (tmp_path / "jobs.csv").write_text(text)
    code, out, err = call(capsys, f"--policy={policy}", tmp_path / "jobs.csv")
    assert (code, out, err.count("\n")) == (2, "", 1)
    for words in ("schedule.py: ", *MISTAKES[text]):
        assert words in err


def test_a_policy_of_something_else_is_refused(capsys, tmp_path):
    spaces = deeprm.make().spaces._replace(observation_shape=(4,))
    learner = build.make_learner(configured(hidden="8"), spaces)
    export.export(tmp_path / "policy", learner, initial_state(learner, tf.constant([3, 1])), spaces)
    code, _, err = call(capsys, f"--policy={tmp_path}", ROOT / "examples" / "jobs.csv")
    assert (code, "observes [4]" in err) == (2, True)
    code, _, err = call(capsys, f"--policy={tmp_path}/nothing", ROOT / "examples" / "jobs.csv")
    assert (code, "holds no policy" in err) == (2, True)


def test_it_runs_as_its_text_says(policy, tmp_path):
    """From any directory, without a word of TensorFlow's."""
    command = [sys.executable, str(ROOT / "examples" / "schedule.py"), f"--policy={policy}", str(ROOT / "examples" / "jobs.csv")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("arrival,length,units_1,units_2,start,finish,slowdown\n")
    assert done.stderr.count("\n") == 1
