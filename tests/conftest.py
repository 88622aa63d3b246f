"""What every test may ask for."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, settings

gc.freeze()  # nobody looks for garbage in TensorFlow: a tenth of the time of tests that trace

# The same examples in every run, and the first that fails is shown as it is.
GENERATE = [Phase.explicit, Phase.generate]
settings.register_profile("tests", derandomize=True, max_examples=30, deadline=None, database=None, phases=GENERATE)
settings.load_profile("tests")


LONG = ("test_npg_solves_cartpole_with_every_seed_in_its_default_budget", "test_npg_swings_up_the_pendulum_with_the_same_flags")


def pytest_collection_modifyitems(items):
    """The longest tests begin, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: getattr(item, "originalname", "") not in LONG)


@pytest.fixture(scope="session", autouse=True)
def _programs_of_these_tests(tmp_path_factory, worker_id):
    """Runs in processes of their own find the programs of one another, and not those of the user."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("XDG_CACHE_HOME", str(base if worker_id == "master" else base.parent))
        yield


@pytest.fixture(params=["python", "graph", "xla"])
def mode(request):
    """Runs a function as plain Python, as a graph, or compiled by XLA: `mode(f)(*args)`. Components are entered below their decorator."""

    def wrap(function):
        inner = getattr(function, "python_function", function)
        if request.param == "python":
            return inner
        return tf.function(inner, autograph=False, jit_compile=request.param == "xla")

    wrap.name = request.param
    return wrap


@pytest.fixture
def rng():
    """Random numbers, the same ones in every run."""
    return np.random.default_rng(7)
