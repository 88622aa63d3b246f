"""Requests that are none: to the policy in Python and in C, and to the server."""

import importlib.util
import json
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
import test_export

from faults import NotRunError
from tfpg import export

draw = random.Random(3)
C = Path(__file__).with_name("malformed.c")


def policy(directory: Path) -> Path:
    """A policy of three observations."""
    learner, state = test_export.trained("real")
    return export.export(directory, learner, state, test_export.SPACES["real"])


def s1(count: int) -> list[str]:
    """Tensors of random shapes, types and values: what is not an observation is refused, and nothing crashes."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        act = tf.saved_model.load(str(policy(Path(directory)))).signatures["serving_default"]
        for _ in range(count):
            shape = [draw.randrange(5) for _ in range(draw.randrange(4))]
            dtype = draw.choice([np.float32, np.float32, np.float64, np.int32, np.bool_])
            x = np.asarray(np.random.default_rng(draw.randrange(2**32)).normal(size=shape)).astype(dtype)
            if dtype == np.float32 and x.size and draw.random() < 0.3:
                x.flat[draw.randrange(x.size)] = draw.choice([np.nan, np.inf, -np.inf])
            good = dtype == np.float32 and x.ndim == 2 and x.shape[1] == 3 and np.isfinite(x).all()
            try:
                answered = act(observation=tf.constant(x))["action"].shape == x.shape
            except (tf.errors.InvalidArgumentError, TypeError, ValueError):
                answered = False
            if answered != good:
                found.append(f"{dtype.__name__} {shape} was {'answered' if answered else 'refused'}")
    return found


def s1_http(count: int) -> list[str]:
    """Random JSON to the server: 200 for requests that are some, 400 for the rest, and it serves on."""
    if importlib.util.find_spec("aiohttp") is None or importlib.util.find_spec("tensorflow_serving") is None:
        raise NotRunError("the packages of tfpg[serve] are not installed")
    import test_serving

    with tempfile.TemporaryDirectory() as directory:
        policy(Path(directory))
        server = test_serving.Server(Path(directory))
        try:
            return test_serving.malformed(server, count, draw)
        finally:
            server.end()


def s1_c(count: int) -> list[str]:
    """The same as `s1` through the C API: `malformed.c` makes the tensors and says which were answered wrongly."""
    if not shutil.which("gcc"):
        raise NotRunError("there is no gcc")
    import test_c_api

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = policy(directory / "policy")
        told = json.loads((path / export.SHEET).read_text())["signatures"]["serving_default"]
        program = test_c_api.compiled(C, directory / "malformed")
        tensors = told["inputs"]["observation"]["tensor"], told["outputs"]["action"]["tensor"]
        done = subprocess.run([program, path, *tensors, str(count)], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    ended = [] if (done.returncode, lines[-1:]) == (0, [f"{count} made"]) else [f"it ended with {done.returncode} {done.stderr[-300:]}"]
    return lines[:-1] + ended
