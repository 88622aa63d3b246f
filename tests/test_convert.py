"""The policy for other runtimes: what was written is loaded and answers as TensorFlow does, or nothing is published."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from program import call
from test_export import NESTED, SPACES, G, trained

from tfpg import convert, export, signatures
from tfpg.envs import spaces
from tfpg.errors import RunFault

NEEDS = {"litert": ("ai_edge_litert",), "onnx": ("tf2onnx", "onnxruntime")}


@pytest.fixture(params=NEEDS)
def kind(request):
    for package in NEEDS[request.param]:
        pytest.importorskip(package)
    return request.param


CASES = {
    **{name: (name, "mlp", "npg") for name in SPACES},
    "gru": ("discrete", "gru", "a2c"),
    "keras": ("real", "keras", "npg"),
    **{f"nested {name}": (spaces.spaces_of("x", space, G.MultiDiscrete([2, 3])), "mlp", "npg") for name, space in NESTED.items()},
}


@pytest.mark.parametrize("case", CASES)
def test_other_runtimes_answer_as_tensorflow_does(case, kind, tmp_path):
    taken, network, algo = CASES[case]
    learner, state = trained(taken, network, algo)
    taken = SPACES[taken] if isinstance(taken, str) else taken
    path, worst = convert.export(tmp_path / kind, kind, learner, state, taken, {"algo": algo})
    assert (path, worst <= 1e-6) == (tmp_path / kind / "1", True)
    assert json.loads((path / "policy.json").read_text())["fingerprint"] == export.fingerprint(state)
    loaded = tf.saved_model.load(str(export.export(tmp_path / "policy", learner, state, taken))).signatures
    answers = convert.FORMATS[kind][1](path)
    for use in convert.USES:
        given = signatures.examples(state, taken, signatures.make(learner, state, taken)[use].inputs, rows=3)
        wanted = {name: x.numpy() for name, x in loaded[use](**{name: tf.constant(x) for name, x in given.items()}).items()}
        found = answers[use](given)
        assert set(found) == set(wanted)
        for name, x in wanted.items():
            np.testing.assert_allclose(found[name], x, rtol=1e-6, atol=1e-6)
            assert np.shape(found[name])[0] == 3


LOADED = """
    import sys
    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("tfpg", "tensorflow"):
                raise ImportError(name)
    sys.meta_path.insert(0, Blocked())
    import numpy as np
    x = np.load(sys.argv[2])
    if sys.argv[1].endswith("tflite"):
        from ai_edge_litert.interpreter import Interpreter
        found = Interpreter(model_path=sys.argv[1]).get_signature_runner("serving_default")(observation=x)["action"]
    else:
        import onnxruntime
        found = onnxruntime.InferenceSession(sys.argv[1]).run(["action"], {"observation": x})[0]
    np.save(sys.argv[3], found)
"""


def test_they_need_neither_tensorflow_nor_tfpg(kind, tmp_path):
    learner, state = trained("discrete")
    path, _ = convert.export(tmp_path / kind, kind, learner, state, SPACES["discrete"])
    x = np.random.default_rng(0).normal(3, 2, [6, 3]).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    file = path / {"litert": "policy.tflite", "onnx": "serving_default.onnx"}[kind]
    command = [sys.executable, "-c", textwrap.dedent(LOADED), str(file), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    wanted = signatures.make(learner, state, SPACES["discrete"])["serving_default"].call(observation=tf.constant(x))["action"]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), wanted)


def test_what_a_runtime_answers_otherwise_is_not_published(kind, tmp_path, monkeypatch):
    learner, state = trained("real")
    write, load = convert.FORMATS[kind]

    def lying(path):
        return {name: (lambda given, f=f: {k: v + 1e-4 for k, v in f(given).items()}) for name, f in load(path).items()}

    monkeypatch.setitem(convert.FORMATS, kind, (write, lying))
    with pytest.raises(RunFault, match="answers otherwise than TensorFlow, by 1"):
        convert.export(tmp_path, kind, learner, state, SPACES["real"])
    assert not (tmp_path / "1").exists()


def test_what_no_runtime_loads_is_not_published(kind, tmp_path, monkeypatch):
    learner, state = trained("real")
    write, load = convert.FORMATS[kind]

    def damaged(path, made):
        write(path, made)
        for file in path.iterdir():
            file.write_bytes(b"nonsense")

    monkeypatch.setitem(convert.FORMATS, kind, (damaged, load))
    with pytest.raises(RunFault, match=f"--format={kind} cannot hold this policy"):
        convert.export(tmp_path, kind, learner, state, SPACES["real"])
    assert not (tmp_path / "1").exists()


@pytest.mark.parametrize("other", NEEDS)
def test_a_missing_package_is_named_with_its_cure(other, tmp_path, monkeypatch):
    learner, state = trained("real")
    for package in NEEDS[other]:
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setitem(sys.modules, f"{package}.interpreter", None)
    with pytest.raises(ValueError, match=rf"pip install 'tfpg\[{other}\]' brings it"):
        convert.export(tmp_path, other, learner, state, SPACES["real"])


def test_the_difference_of_answers():
    a = {"x": np.array([1.0, 200.0])}
    assert convert.difference(a, a) == 0
    assert convert.difference({"x": np.array([1.5, 200.0])}, a) == 0.5
    assert convert.difference({"x": np.array([1.0, 201.0])}, a) == pytest.approx(1 / 200)
    assert convert.difference({"y": a["x"]}, a) == np.inf
    assert np.isnan(convert.difference({**a, "y": np.array([np.nan])}, {**a, "y": np.array([1.0])}))
    assert convert.difference({"x": a["x"][:1]}, a) == np.inf


def test_the_command_says_where_it_is_and_how_near(kind, tmp_path, capfd):
    run = tmp_path / "run"
    small = ["--total_steps=400", "--envs=4", "--horizon=20", "--hidden=8", "--eval_episodes=1", "--progress=none", "--tensorboard=false"]
    assert call(capfd, *small, f"--workdir={run}")[0] == 0
    code, out, err = call(capfd, "--mode=export", f"--workdir={run}", f"--format={kind}")
    assert (code, err) == (0, "")
    assert f"is in {run / kind / '1'}. Loaded again, it differs by" in out
