"""examples/c/act.c on TensorFlow's C API, compiled as docs/serving.md says: the same bits as in Python, and sentences for mistakes."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from program import ROOT
from test_export import SPACES, observations, trained

from tfpg import export

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")


def compiled(source, program):
    """A program on TensorFlow's C API, as docs/serving.md says."""
    where = Path(tf.__file__).parent
    libraries = ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    found = [f"-I{where}/include", f"-L{where}", *libraries, f"-Wl,-rpath,{where}"]
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-O2", source, "-o", program, *found], check=True)
    return program


@pytest.fixture(scope="module")
def act(tmp_path_factory):
    return compiled(ROOT / "examples/c/act.c", tmp_path_factory.mktemp("c") / "act")


def exported(path, kind, network="mlp", algo="npg"):
    learner, state = trained(kind, network, algo)
    made = export.export(path, learner, state, SPACES[kind])
    return made, json.loads((made / export.SHEET).read_text())["signatures"]


def run(act, path, signature, output, width, text):
    (given,) = signature["inputs"].values()
    command = [act, path, given["tensor"], signature["outputs"][output]["tensor"], str(width)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    done.stderr = "".join(line for line in done.stderr.splitlines(True) if line.startswith("act: "))  # TensorFlow talks as it starts
    return done


ASKED = [
    ("real", "serving_default", "action"),
    ("real", "value", "value"),
    ("discrete", "serving_default", "action"),
    ("several", "distribution", "logits"),
]


@pytest.mark.parametrize(("kind", "use", "output"), ASKED)
def test_c_has_the_same_bits_as_python(kind, use, output, act, tmp_path):
    path, told = exported(tmp_path, kind)
    x = observations(kind, 7)
    done = run(act, path, told[use], output, x.shape[1], "\n".join(" ".join(f"{number:.9g}" for number in row) for row in x))
    assert (done.returncode, done.stderr) == (0, "")
    wanted = tf.saved_model.load(str(path)).signatures[use](observation=tf.constant(x))[output].numpy()
    found = np.array([line.split() for line in done.stdout.splitlines()], wanted.dtype)
    assert len(done.stdout.splitlines()) == 7
    np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)


def test_no_observations_are_no_answers(act, tmp_path):
    path, told = exported(tmp_path, "real")
    done = run(act, path, told["serving_default"], "action", 3, "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("width", "text", "words"),
    [
        (2, "1 2 3 4", "the policy refuses"),
        (1, "1 2", "the policy refuses"),
        (3, "1 nan 3", "observation must be finite"),
        (3, "1 inf 3", "observation must be finite"),
        (3, "1 2 3 4", "the last observation is not complete"),
        (3, "1 x 3", "only numbers are allowed"),
        (0, "", "usage"),
    ],
)
def test_mistakes_are_sentences(width, text, words, act, tmp_path):
    path, told = exported(tmp_path, "real")
    done = run(act, path, told["serving_default"], "action", width, text)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


def test_what_is_not_there_is_named(act, tmp_path):
    path, told = exported(tmp_path, "real")
    done = run(act, tmp_path / "nowhere", told["serving_default"], "action", 3, "1 2 3")
    assert done.returncode == 1
    assert done.stderr.startswith(f"act: {tmp_path / 'nowhere'}: ")
    told["serving_default"]["outputs"]["action"]["tensor"] = "Nothing:0"
    done = run(act, path, told["serving_default"], "action", 3, "1 2 3")
    assert (done.returncode, done.stderr) == (1, "act: Nothing:0: the graph has no such tensor\n")
