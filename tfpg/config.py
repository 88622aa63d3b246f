"""What a run is: one frozen record of plain values. The command line is made from it, and nothing below reads a flag."""

import dataclasses
import difflib
import math
import re
from typing import Any

from tfpg.errors import UsageError

ALGORITHMS = ("reinforce", "reinforce_togo", "reinforce_baseline", "npg_fixed", "npg", "trpo")
ACTIVATIONS = ("tanh", "relu", "elu", "swish")
ENGINES = ("auto", "graph", "gymnasium", "envpool")
"""Names that flags may take, here so that `--help` and a mistyped flag need not wait for TensorFlow."""


def option(default: Any, group: str, help: str, **allowed: Any) -> Any:
    """A field of Config: its default, where `--help` lists it, a few words, and what is allowed: `choices`, or `low` and `high`."""
    return dataclasses.field(default=default, metadata={"group": group, "help": help, **allowed})


LEARN, STEP, NETWORK, RUN, JUDGE = "What to learn", "How to improve", "Networks", "Where and how to run", "Evaluation and logging"


@dataclasses.dataclass(frozen=True)
class Config:
    algo: str = option("npg", LEARN, f"a row of the table: {', '.join(ALGORITHMS)}", choices=ALGORITHMS)
    env: str = option("CartPole-v1", LEARN, "environment: any gymnasium id")
    engine: str = option("auto", LEARN, "graph (compiled TensorFlow), gymnasium, envpool; auto: graph if tfpg has it", choices=ENGINES)
    total_steps: int = option(400_000, LEARN, "environment steps to learn from, in whole iterations", low=1, high=10**15)
    envs: int = option(0, LEARN, "environments side by side; 0: chosen by engine", low=0, high=1_000_000)
    horizon: int = option(0, LEARN, "steps of each per iteration; 0: chosen by engine", low=0, high=1_000_000)
    seed: int = option(0, LEARN, "seed of everything random", low=0, high=2**31 - 1)

    discount: float = option(0.99, STEP, "gamma, per step", low=0, high=1)
    discount_from: str = option(
        "togo", STEP, "togo: from each step on, as is common; start: as the objective has it", choices=("togo", "start")
    )
    gae_lambda: float = option(0.95, STEP, "lambda of generalised advantage estimation", low=0, high=1)
    kl_radius: float = option(0.01, STEP, "epsilon of npg and trpo: mean KL(old||new) of a step, in nats", low=1e-12, high=100)
    anneal: bool = option(True, STEP, "radius, alpha and learning_rate fall linearly to 0 over total_steps")
    damping: float = option(0.1, STEP, "eta in (F + eta I) x = g", low=0, high=1e6)
    cg_iterations: int = option(10, STEP, "conjugate-gradient iterations", low=1, high=10_000)
    step_size: float = option(0.3, STEP, "alpha of npg_fixed: theta + alpha x", low=0, high=1e6)
    backtracks: int = option(10, STEP, "step lengths that trpo tries", low=1, high=1000)
    shrink: float = option(0.8, STEP, "factor from one of these lengths to the next", low=1e-6, high=1 - 1e-6)
    optimizer: str = option("adam", STEP, "adam or sgd, of the reinforce rows", choices=("adam", "sgd"))
    learning_rate: float = option(0.01, STEP, "its learning rate", low=0, high=1e6)
    critic_learning_rate: float = option(1e-3, STEP, "learning rate of the critic (Adam)", low=0, high=1e6)
    critic_epochs: int = option(5, STEP, "passes over the batch to fit the critic", low=1, high=10_000)
    critic_minibatches: int = option(8, STEP, "minibatches of each pass", low=1, high=1_000_000)

    network: str = option("mlp", NETWORK, "mlp: our own perceptron; keras: the same as a Keras model", choices=("mlp", "keras"))
    hidden: str = option("64,64", NETWORK, "widths of the hidden layers; empty: linear")
    activation: str = option("tanh", NETWORK, f"of the hidden layers: {', '.join(ACTIVATIONS)}", choices=ACTIVATIONS)
    initial_log_std: float = option(0.0, NETWORK, "of a new Gaussian policy; -1 and 1 are the action's bounds", low=-20, high=5)
    normalize_observations: bool = option(True, NETWORK, "standardise observations by running mean and variance")

    mode: str = option("train", RUN, "train; evaluate or export the run in --workdir", choices=("train", "evaluate", "export"))
    workdir: str = option("", RUN, "run directory; empty: a new one under runs/")
    resume: bool = option(False, RUN, "continue the run in --workdir")
    device: str = option("auto", RUN, "auto, cpu, gpu or tpu", choices=("auto", "cpu", "gpu", "tpu"))
    jit: bool = option(True, RUN, "compile with XLA")
    fisher_block: int = option(2048, RUN, "samples per block of the Fisher-vector product", low=1, high=2**31 - 1)

    eval_episodes: int = option(100, JUDGE, "greedy episodes of an evaluation", low=1, high=1_000_000)
    eval_every: int = option(0, JUDGE, "iterations between evaluations; 0: only at the end", low=0, high=2**31 - 1)
    stop_at_return: float = option(math.nan, JUDGE, "stop once an evaluation (every 10 iterations if eval_every is 0) reaches it")
    checkpoint_every: int = option(50, JUDGE, "iterations between checkpoints; there is one at the end too", low=1, high=2**31 - 1)
    progress: str = option("auto", JUDGE, "live, plain, none; auto: live on a terminal", choices=("auto", "live", "plain", "none"))
    tensorboard: bool = option(True, JUDGE, "write events, if tensorboard is installed")

    def hidden_widths(self) -> list[int]:
        """`hidden` as numbers; empty means a linear network."""
        return [int(width) for width in self.hidden.split(",") if width.strip()]


PLACES = ("mode", "workdir", "resume")  # where a run lies and what is done with it: not part of what the run is
FREE = (*PLACES, "total_steps", "stop_at_return", "checkpoint_every", "progress", "tensorboard", "eval_every", "eval_episodes", "device")
"""Flags that a resumed run may change: they say how long and how watched, not what is learned."""


def closest(word: str, words: Any) -> str:
    """' Did you mean ...?' or nothing."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""


def _check_field(field: dataclasses.Field, value: Any) -> None:
    low, high, choices = (field.metadata.get(key) for key in ("low", "high", "choices"))
    if choices and value not in choices:
        raise UsageError(f"--{field.name}={value} is unknown: {', '.join(choices)} are allowed.{closest(value, choices)}")
    if isinstance(value, float) and (math.isinf(value) or (math.isnan(value) and field.name != "stop_at_return")):
        raise UsageError(f"--{field.name}={value} is not allowed: a finite number may stand there.")
    if low is not None and not low <= value <= high:
        raise UsageError(f"--{field.name}={value} is out of range: a number from {low} to {high} is allowed.")


def check(config: Config) -> Config:
    """Returns config, or raises UsageError for the first value that is not allowed."""
    for field in dataclasses.fields(config):
        _check_field(field, getattr(config, field.name))
    if not re.fullmatch(r"([1-9][0-9]{0,5}(, *[1-9][0-9]{0,5})*)?", config.hidden):
        raise UsageError(f"--hidden={config.hidden} is not a list of widths: whole numbers like 64,64 are allowed, or nothing.")
    if config.mode != "train" and not config.workdir:
        raise UsageError(f"--mode={config.mode} needs --workdir=DIR, the directory of a run.")
    if config.resume and not config.workdir:
        raise UsageError("--resume needs --workdir=DIR, the directory of the run to continue.")
    if config.resume and config.mode != "train":
        raise UsageError(f"--resume goes with --mode=train, not with --mode={config.mode}.")
    return config
