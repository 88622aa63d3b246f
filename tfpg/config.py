"""What a run is: one frozen record of plain values. The command line is made from it, and nothing below reads a flag."""

import dataclasses
import difflib
import math
import re
from typing import Any

from tfpg import algorithms
from tfpg.algorithms import ALGORITHMS, BASELINES, CRITICS, DEFAULTS, PSI, WEIGHTS, Algorithm
from tfpg.errors import UsageError

ACTIVATIONS = ("tanh", "relu", "elu", "swish")
ENGINES = ("auto", "graph", "sync", "async", "envpool")
AUTORESETS = ("auto", "disabled", "same_step", "next_step")
NETWORKS = ("mlp", "keras", "cnn", "gru", "deeprm")
OPTIMIZERS = ("adam", "rmsprop", "rmsprop_inside", "sgd")
SCHEDULES = ("constant", "linear", "cosine", "exponential")
MODES = ("train", "evaluate", "export", "collect", "verify", "serve")
FORMATS = ("savedmodel", "litert", "onnx")
"""Names that flags may take, here so that `--help` and a mistyped flag need not wait for TensorFlow."""

LONG = 200_000
"""Steps of a run from which on compiling pays."""


def option(default: Any, group: str, help: str, **allowed: Any) -> Any:
    """A field of Config: its default, where `--help` lists it, a few words, and what is allowed: `choices`, or `low` and `high`."""
    return dataclasses.field(default=default, metadata={"group": group, "help": help, **allowed})


LEARN, ENVIRONMENT, PSI_FLAGS = "What to learn", "Environments", "From rewards to psi"
STEP, NATURAL, FIRST, REUSE = "How to improve", "Natural gradient", "First-order steps", "Using a batch again"
NETWORK, RUN, JUDGE, SHIP = "Networks", "Where and how to run", "Evaluation and logging", "An exported policy"


@dataclasses.dataclass(frozen=True)
class Config:
    algo: str = option("npg", LEARN, f"a row of the table: {', '.join(ALGORITHMS)}", choices=tuple(ALGORITHMS))
    psi: str = option("", LEARN, f"instead of the row's own: {', '.join(PSI)}", choices=("", *PSI))
    baseline: str = option("", LEARN, f"instead of the row's own: {', '.join(BASELINES)}", choices=("", *BASELINES))
    critic: str = option("", LEARN, f"instead of the row's own: {', '.join(CRITICS)}", choices=("", *CRITICS))
    weights: str = option("", LEARN, f"of off_policy: {', '.join(WEIGHTS)}", choices=("", *WEIGHTS))
    total_steps: int = option(
        400_000, LEARN, "steps to learn from, of environments or demonstrations, in whole iterations", low=1, high=10**15
    )
    seed: int = option(0, LEARN, "seed of everything random", low=0, high=2**31 - 1)
    num_seeds: int = option(1, LEARN, "runs of one program, with seeds from --seed on, each in a directory of its own", low=1, high=10_000)

    env: str = option("CartPole-v1", ENVIRONMENT, "any gymnasium id")
    env_arguments: str = option("", ENVIRONMENT, "what its constructor takes: name=value,name=value")
    engine: str = option("auto", ENVIRONMENT, "graph (compiled), sync, async, envpool; auto: graph if tfpg has it", choices=ENGINES)
    autoreset: str = option("auto", ENVIRONMENT, "how gymnasium resets: disabled, same_step, next_step", choices=AUTORESETS)
    envs: int = option(0, ENVIRONMENT, "environments side by side; 0: chosen by engine", low=0, high=1_000_000)
    horizon: int = option(0, ENVIRONMENT, "steps of each per iteration; 0: chosen by engine", low=0, high=1_000_000)
    group: int = option(1, ENVIRONMENT, "environments that begin alike, and whose baseline is made of one another", low=1, high=1_000_000)
    episode_steps: int = option(0, ENVIRONMENT, "an episode is truncated after so many steps; 0: its own limit", low=0, high=10**9)
    window: int = option(1, ENVIRONMENT, "observations that the policy sees together, the newest ones", low=1, high=1000)
    normalize_observations: bool = option(True, ENVIRONMENT, "standardise observations by running mean and variance")
    noise_repeat: int = option(1, ENVIRONMENT, "steps for which exploration noise is held", low=1, high=1_000_000)

    env_timeout: float = option(0.0, ENVIRONMENT, "async: seconds for a step or reset of an environment; 0: any time", low=0, high=1e6)
    max_env_restarts: int = option(3, ENVIRONMENT, "times in an iteration that failed environments are replaced", low=0, high=10**6)
    check_bounds: bool = option(False, ENVIRONMENT, "observations outside their space are failures too")

    discount: float = option(0.99, PSI_FLAGS, "gamma, per step", low=0, high=1)
    discount_from: str = option(
        "togo", PSI_FLAGS, "togo: from each step on, as is common; start: as the objective has it", choices=("togo", "start")
    )
    gae_lambda: float = option(0.95, PSI_FLAGS, "lambda of generalised advantage estimation", low=0, high=1)
    n_steps: int = option(5, PSI_FLAGS, "n of psi=n_step, and of modelled steps with pathwise", low=1, high=100_000)
    average_rate: float = option(0.1, PSI_FLAGS, "kappa of baseline=moving_average", low=1e-9, high=1)
    whiten: bool = option(False, PSI_FLAGS, "standardise psi over each batch")
    return_scaling: bool = option(False, PSI_FLAGS, "divide psi by the running deviation of returns")

    entropy_bonus: float = option(0.0, STEP, "reward per nat of entropy, in units of psi", low=0, high=1e6)
    schedule: str = option("linear", STEP, f"how steps shrink over total_steps: {', '.join(SCHEDULES)}", choices=SCHEDULES)
    kl_radius: float = option(0.01, NATURAL, "epsilon of npg and trpo: mean KL(old||new) of a step, in nats", low=1e-12, high=100)
    damping: float = option(0.1, NATURAL, "eta in (F + eta I) x = g", low=0, high=1e6)
    cg_iterations: int = option(10, NATURAL, "conjugate-gradient iterations", low=1, high=10_000)
    step_size: float = option(0.3, NATURAL, "alpha of npg_fixed: theta + alpha x", low=0, high=1e6)
    backtracks: int = option(10, NATURAL, "step lengths that trpo tries", low=1, high=1000)
    shrink: float = option(0.8, NATURAL, "factor from one of these lengths to the next", low=1e-6, high=1 - 1e-6)
    fisher_block: int = option(4096, NATURAL, "samples per block of the Fisher-vector product", low=1, high=2**31 - 1)
    shards: int = option(
        2, NATURAL, "parts of a batch whose Fisher products are computed side by side, one for each core", low=1, high=1024
    )
    optimizer: str = option("adam", FIRST, f"of the rows without natural gradient: {', '.join(OPTIMIZERS)}", choices=OPTIMIZERS)
    learning_rate: float = option(0.01, FIRST, "its learning rate", low=0, high=1e6)
    gradient_clip: float = option(0.0, FIRST, "longest gradient that is used as it is; 0: any", low=0, high=1e9)
    adam_epsilon: float = option(1e-7, FIRST, "what Adam adds to the root of its mean square, policy and critic alike", low=1e-12, high=1)
    critic_learning_rate: float = option(1e-3, FIRST, "learning rate of critic and model (Adam)", low=0, high=1e6)
    critic_epochs: int = option(5, FIRST, "passes over the batch to fit them", low=1, high=10_000)
    critic_minibatches: int = option(8, FIRST, "minibatches of each pass", low=1, high=1_000_000)
    epochs: int = option(10, REUSE, "passes over a batch: ppo, ppo_kl, off_policy, pathwise", low=1, high=10_000)
    minibatches: int = option(8, REUSE, "minibatches of each pass", low=1, high=1_000_000)
    clip_range: float = option(0.2, REUSE, "epsilon of ppo: ratios beyond 1 +- epsilon earn nothing", low=1e-9, high=1 - 1e-9)
    kl_target: float = option(0.01, REUSE, "nats per iteration that ppo_kl aims at", low=1e-12, high=100)
    self_normalise: bool = option(False, REUSE, "off_policy: divide weights by their mean")
    least_overlap: float = option(0.3, REUSE, "off_policy: least effective share of the sample to learn from", low=0, high=1)
    demonstrations: str = option("", REUSE, "off_policy: a file to learn from, as --mode=collect writes")
    clone_epochs: int = option(0, REUSE, "with demonstrations: passes of imitation first", low=0, high=1_000_000)
    guidance: float = option(0.0, REUSE, "with demonstrations: w_r > 0, the guided-policy-search objective", low=0, high=1e9)

    network: str = option("mlp", NETWORK, "mlp; keras: the same; cnn: pixels; gru: remembers; deeprm: its image", choices=NETWORKS)
    hidden: str = option("64,64", NETWORK, "widths of the hidden layers; empty: linear")
    activation: str = option("tanh", NETWORK, f"of the hidden layers: {', '.join(ACTIVATIONS)}", choices=ACTIVATIONS)
    initial_log_std: float = option(0.0, NETWORK, "of a new Gaussian policy; -1 and 1 are the action's bounds", low=-20, high=5)
    log_std_floor: float = option(-20.0, NETWORK, "the Gaussian policy's least log standard deviation", low=-20, high=5)

    mode: str = option("train", RUN, f"{', '.join(MODES)}; all but train use --workdir", choices=MODES)
    workdir: str = option("", RUN, "run directory; empty: a new one under runs/; collect: RUN1,RUN2 too")
    resume: bool = option(False, RUN, "continue the run in --workdir")
    output: str = option("", RUN, "file that --mode=collect writes; empty: demonstrations.npz in --workdir")
    device: str = option("auto", RUN, "auto, cpu, gpu or tpu", choices=("auto", "cpu", "gpu", "tpu"))
    jit: str = option("auto", RUN, "compile with XLA: true, false; auto: where the run is long enough", choices=("auto", "true", "false"))
    cache: str = option("", RUN, "folder that keeps traced and compiled programs; empty: the user's cache folder; none: nowhere")

    eval_episodes: int = option(100, JUDGE, "greedy episodes of an evaluation, and episodes to collect", low=1, high=1_000_000)
    eval_every: int = option(0, JUDGE, "iterations between evaluations; 0: only at the end", low=0, high=2**31 - 1)
    stop_at_return: float = option(math.nan, JUDGE, "stop once an evaluation (every 10 iterations if eval_every is 0) reaches it")
    select: str = option("last", JUDGE, "policy to judge and export: last; best: of all that were evaluated", choices=("last", "best"))
    checkpoint_every: int = option(50, JUDGE, "iterations between checkpoints; there is one at the end too", low=1, high=2**31 - 1)
    progress: str = option("auto", JUDGE, "live, plain, none; auto: live on a terminal", choices=("auto", "live", "plain", "none"))
    tensorboard: bool = option(True, JUDGE, "write events, if tensorboard is installed")

    policy: str = option("", SHIP, "verify, serve: a version, a policy directory, or a run")
    trust: bool = option(False, SHIP, "serve: load it even if verify refuses it; a policy is a program")
    format: str = option("savedmodel", SHIP, f"what --mode=export writes: {', '.join(FORMATS)}", choices=FORMATS)
    port: int = option(8501, SHIP, "serve: port of the REST protocol on 127.0.0.1; 0: any free one", low=0, high=65_535)
    grpc_port: int = option(0, SHIP, "serve: port of the gRPC protocol; 0: none", low=0, high=65_535)
    max_rows: int = option(4096, SHIP, "serve: rows of a request", low=1, high=10_000_000)
    max_bytes: int = option(16_000_000, SHIP, "serve: bytes of a request", low=1000, high=2**31 - 1)
    request_timeout: float = option(10.0, SHIP, "serve: seconds for reading and answering a request", low=0.001, high=3600)

    def hidden_widths(self) -> list[int]:
        """`hidden` as numbers; empty means a linear network."""
        return [int(width) for width in self.hidden.split(",") if width.strip()]

    def arguments(self) -> dict[str, Any]:
        """`env_arguments` by name: numbers, true and false as such, anything else as text. Raises: UsageError."""
        pairs = [pair.partition("=") for pair in self.env_arguments.split(",") if pair.strip()]
        for name, equals, value in pairs:
            if not (name.strip().isidentifier() and equals and value.strip()):
                raise UsageError(f"--env_arguments={self.env_arguments}: {name}{equals}{value} is no pair of name=value.")
        return {name.strip(): _plain(value.strip()) for name, _, value in pairs}

    def compiled(self) -> bool:
        """Whether XLA compiles the run's programs. That takes seconds, and saves a run of fewer than LONG steps less than it costs it.

        A run that stops at its goal is expected to need a quarter of its steps. How many seeds there are plays no part: each is equal to a
        run of its own.
        """
        expected = self.total_steps if math.isnan(self.stop_at_return) else self.total_steps / 4
        return self.jit == "true" or (self.jit == "auto" and expected >= LONG)

    def row(self) -> Algorithm:
        """The words that are in force: the row's own, or what the flags put in their place."""
        row = algorithms.varied(ALGORITHMS[self.algo], self.psi, self.baseline, self.critic, self.weights)
        return row._replace(baseline="none", surrogate="guided") if self.guidance else row


def _plain(text: str) -> Any:
    """A number or a truth value if the text is one, else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def settled(config: Config) -> Config:
    """The same with --jit=auto decided, for good: a run that is resumed with more steps goes on as it began."""
    return dataclasses.replace(config, jit=str(config.compiled()).lower())


def configured(**given: Any) -> Config:
    """A Config of the values given; what is not given is what the row of `algo` sets, or else the flag's default.

    A row's short chunks are no horizon for a psi that needs whole episodes.
    """
    defaults = dict(DEFAULTS.get(given.get("algo", Config.algo), {}))
    if given.get("psi") in algorithms.WHOLE:
        defaults.pop("horizon", None)
    return Config(**{**defaults, **given})


READ_IN = {
    "output": ("collect",),
    "format": ("export",),
    "policy": ("verify", "serve"),
    **dict.fromkeys(("trust", "port", "grpc_port", "max_rows", "max_bytes", "request_timeout"), ("serve",)),
}
"""The modes that read a flag which is about what they do."""
SHIPPING = ("verify", "serve")
"""The modes that take an exported policy and not a run."""
PLACES = ("mode", "workdir", "resume", "cache", *READ_IN)  # where a run lies and what is done with it: not part of what the run is
CARE = ("env_timeout", "max_env_restarts", "check_bounds", "select")
FREE = (
    *PLACES,
    *CARE,
    "total_steps",
    "stop_at_return",
    "checkpoint_every",
    "progress",
    "tensorboard",
    "eval_every",
    "eval_episodes",
    "device",
)
"""Flags that a resumed run may change: they say how long and how watched, not what is learned."""


def closest(word: str, words: Any) -> str:
    """' Did you mean ...?' or nothing."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""


def flag_text(value: Any) -> str:
    """A value as it stands behind `--name=`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_field(field: dataclasses.Field, value: Any) -> None:
    low, high, choices = (field.metadata.get(key) for key in ("low", "high", "choices"))
    if choices and value not in choices:
        allowed = ", ".join(filter(None, choices))
        raise UsageError(f"--{field.name}={value} is unknown: {allowed} are allowed.{closest(value, choices)}")
    if isinstance(value, float) and (math.isinf(value) or (math.isnan(value) and field.name != "stop_at_return")):
        raise UsageError(f"--{field.name}={value} is not allowed: a finite number may stand there.")
    if low is not None and not low <= value <= high:
        raise UsageError(f"--{field.name}={value} is out of range: a number from {low} to {high} is allowed.")


def _check_row(config: Config) -> None:
    """Raises UsageError for words that make no sense together, or flags that the row would not read."""
    _check_demonstrations(config)
    row = config.row()
    if config.weights and config.algo != "off_policy":
        raise UsageError(f"--weights={config.weights} goes with --algo=off_policy, not with --algo={config.algo}.")
    if config.algo == "pathwise" and (config.psi or config.baseline or config.critic):
        word = next(word for word in ("psi", "baseline", "critic") if getattr(config, word))
        raise UsageError(f"--{word}={getattr(config, word)} has no meaning for --algo=pathwise, which differentiates a model instead.")
    found = algorithms.nonsense(row)
    if found:
        word, why = found
        raise UsageError(f"--{word}={getattr(row, word)} does not go with --algo={config.algo} here: {why}.")
    if config.critic and not algorithms.needs_critic(row):
        raise UsageError(
            f"--critic={config.critic} would not be read: --baseline=value asks for one, and --psi=q, advantage, td, n_step and gae."
        )
    _check_fitting(config, row)
    _check_read(config, row)


def _check_read(config: Config, row: Algorithm) -> None:
    """Raises UsageError for a flag that was changed and that nothing in this run reads."""
    natural, again = algorithms.natural(row), row.improve == "epochs"
    weighed = row.surrogate in (*WEIGHTS, "guided")
    fitted = algorithms.needs_critic(row) or config.algo == "pathwise" or config.clone_epochs > 0
    estimated = config.algo != "pathwise" and not config.guidance
    read = {
        "clip_range": (row.surrogate == "clipped", "--algo=ppo reads it"),
        "kl_target": (row.surrogate == "kl_penalised", "--algo=ppo_kl reads it"),
        "kl_radius": (row.improve in ("natural", "natural_search"), "--algo=npg and trpo read it"),
        "damping": (natural, "--algo=npg, npg_fixed and trpo read it"),
        "cg_iterations": (natural, "--algo=npg, npg_fixed and trpo read it"),
        "fisher_block": (natural, "--algo=npg, npg_fixed and trpo read it"),
        "shards": (natural, "--algo=npg, npg_fixed and trpo read it"),
        "step_size": (row.improve == "natural_fixed", "--algo=npg_fixed reads it"),
        "backtracks": (row.improve == "natural_search", "--algo=trpo reads it"),
        "shrink": (row.improve == "natural_search", "--algo=trpo reads it"),
        "optimizer": (not natural, "the rows without natural gradient read it"),
        "learning_rate": (not natural, "the rows without natural gradient read it; --critic_learning_rate is the critic's"),
        "adam_epsilon": (fitted or (not natural and config.optimizer == "adam"), "rows that use Adam read it"),
        "gradient_clip": (fitted or not natural, "rows that take first-order steps read it"),
        "epochs": (again, "--algo=ppo, ppo_kl, off_policy and pathwise read it"),
        "minibatches": (again, "--algo=ppo, ppo_kl, off_policy and pathwise read it"),
        "self_normalise": (weighed, "--algo=off_policy reads it"),
        "least_overlap": (weighed, "--algo=off_policy reads it"),
        "n_steps": (row.psi == "n_step" or config.algo == "pathwise", "--psi=n_step and --algo=pathwise read it"),
        "average_rate": (row.baseline == "moving_average", "--baseline=moving_average reads it"),
        "gae_lambda": (estimated and (row.psi == "gae" or (row.critic == "lambda" and fitted)), "--psi=gae and --critic=lambda read it"),
        "whiten": (estimated, "rows with psi read it"),
        "return_scaling": (estimated, "rows with psi read it"),
        "discount_from": (estimated and row.psi != "return", "rows with psi read it; --psi=return is discounted from the start"),
        "critic_epochs": (fitted, "rows with a critic read it"),
        "critic_minibatches": (fitted, "rows with a critic read it"),
        "critic_learning_rate": (fitted, "rows with a critic read it"),
        "noise_repeat": (not config.demonstrations, "runs that collect read it"),
        "group": (row.baseline in algorithms.GROUPED and not config.demonstrations, "--baseline=mean, leave_one_out and time_mean read it"),
        "hidden": (config.network != "cnn", "the other networks read it"),
        "activation": (config.network != "cnn", "the other networks read it"),
    }
    usual = configured(algo=config.algo)
    for name, (is_read, who) in read.items():
        if not is_read and getattr(config, name) != getattr(usual, name):
            raise UsageError(f"--{name}={flag_text(getattr(config, name))} would not be read by this run: {who}.")


def _check_fitting(config: Config, row: Algorithm) -> None:
    """Raises UsageError for networks, objectives and data that the row cannot use."""
    if config.network == "cnn" and config.window > 1:
        raise UsageError(f"--window={config.window} does not go with --network=cnn, which sees one image; --window=1 does.")
    if config.network == "deeprm" and (config.normalize_observations or config.window > 1):
        raise UsageError("--network=deeprm reads one code as it is: --normalize_observations=false and --window=1 go with it.")
    if config.network == "gru":
        if not config.hidden_widths():
            raise UsageError(
                f"--hidden={config.hidden} does not go with --network=gru: the last width is the size of its memory, as in 64,64."
            )
        if algorithms.natural(row):
            raise UsageError(
                f"--network=gru does not go with --algo={config.algo}: the Fisher product cannot pass its memory; "
                "ppo, ppo_kl, a2c, actor_critic and the reinforce rows learn with it, and --window=4 goes with every row."
            )
        if config.algo == "pathwise" or (algorithms.needs_critic(row) and algorithms.fits_q(row)):
            raise UsageError("--network=gru goes with critics of V only: --critic=td, lambda or monte_carlo, and not with pathwise.")
    if config.envs == 1 and algorithms.weighs_wholes(row):
        raise UsageError("--envs=1 leaves the weights of whole trajectories nothing to be held against: --envs=2 or more is allowed.")
    if config.envs == 1 and config.whiten and row.psi == "return":
        raise UsageError("--whiten makes the return of a single trajectory 0: --envs=2 or more is allowed with it, not --envs=1.")
    if config.envs == 1 and algorithms.needs_others(row):
        raise UsageError(f"--baseline={row.baseline} needs other trajectories: --envs=2 or more is allowed, not --envs=1.")
    if row.baseline == "optimal_per_parameter" and (config.whiten or config.entropy_bonus):
        name, off = ("whiten", "false") if config.whiten else ("entropy_bonus", "0")
        raise UsageError(
            f"--{name} does not go with --baseline=optimal_per_parameter, which makes the gradient itself: --{name}={off} does, "
            "and --baseline=optimal."
        )
    if config.whiten and row.surrogate == "causal":
        raise UsageError("--whiten does not go with --weights=causal, whose psi is made anew in each update; the other --weights take it.")


def _check_demonstrations(config: Config) -> None:
    """Raises UsageError for flags that learning from a file needs, or would not read."""
    for name in ("guidance", "clone_epochs"):
        if getattr(config, name) and not config.demonstrations:
            raise UsageError(f"--{name}={getattr(config, name)} needs --demonstrations=FILE.")
    if not config.demonstrations:
        return
    if config.algo != "off_policy":
        raise UsageError(f"--demonstrations={config.demonstrations} goes with --algo=off_policy, not with --algo={config.algo}.")
    if config.network == "gru":
        raise UsageError("--network=gru does not go with --demonstrations, which hold nobody's memory; --window=4 sees the past too.")
    unread = [name for name in ("envs", "horizon") if getattr(config, name)]
    if unread:
        raise UsageError(f"--{unread[0]}={getattr(config, unread[0])} would not be read: with --demonstrations the file has its own.")
    words = ("psi", "baseline", "critic", "weights", "self_normalise", "whiten", "return_scaling")
    unread = [name for name in words if getattr(config, name) and config.guidance]
    if unread:
        value = str(getattr(config, unread[0])).lower()
        raise UsageError(f"--{unread[0]}={value} would not be read: --guidance={config.guidance} is an objective of its own.")


def _check_seeds(config: Config) -> None:
    """Raises UsageError for seeds beyond the largest, and for what can be done with one run only."""
    if config.seed + config.num_seeds > 2**31:
        raise UsageError(f"--num_seeds={config.num_seeds} from --seed={config.seed} on: seeds up to {2**31 - 1} are allowed.")
    if config.num_seeds > 1 and config.mode != "train":
        raise UsageError(
            f"--mode={config.mode} takes one run, and --workdir={config.workdir} holds {config.num_seeds}: "
            f"{config.workdir}/seed{config.seed} and the like are allowed."
        )


def check_values(config: Config) -> Config:
    """Returns config, or raises UsageError for the first value that no run may have: each flag by itself, and where the run lies."""
    for field in dataclasses.fields(config):
        _check_field(field, getattr(config, field.name))
    if not re.fullmatch(r"([1-9][0-9]{0,5}(, *[1-9][0-9]{0,5})*)?", config.hidden):
        raise UsageError(f"--hidden={config.hidden} is not a list of widths: whole numbers like 64,64 are allowed, or nothing.")
    config.arguments()
    for name, modes in READ_IN.items():
        if getattr(config, name) != getattr(Config, name) and config.mode not in modes:
            raise UsageError(
                f"--{name}={flag_text(getattr(config, name))} goes with --mode={' and '.join(modes)}, not with --mode={config.mode}."
            )
    if config.mode in SHIPPING and bool(config.workdir) == bool(config.policy):
        raise UsageError(f"--mode={config.mode} needs either --policy=DIR, an exported policy, or --workdir=DIR, the run that it is of.")
    if config.mode not in ("train", *SHIPPING) and not config.workdir:
        raise UsageError(f"--mode={config.mode} needs --workdir=DIR, the directory of a run.")
    if config.resume and not config.workdir:
        raise UsageError("--resume needs --workdir=DIR, the directory of the run to continue.")
    if config.resume and config.mode != "train":
        raise UsageError(f"--resume goes with --mode=train, not with --mode={config.mode}.")
    return config


def check(config: Config) -> Config:
    """Returns config, or raises UsageError for the first value, or the first two together, that are not allowed."""
    check_values(config)
    _check_row(config)
    _check_seeds(config)
    if config.log_std_floor > -20 and config.initial_log_std <= config.log_std_floor:
        raise UsageError(
            f"--initial_log_std={config.initial_log_std} is not above --log_std_floor={config.log_std_floor}: it starts above its floor."
        )
    if config.env_timeout and config.engine != "async":
        raise UsageError(
            f"--env_timeout={config.env_timeout:g} goes with --engine=async, where an environment that hangs can be ended, "
            f"not with --engine={config.engine}."
        )
    if config.select == "best" and not config.eval_every and math.isnan(config.stop_at_return) and config.mode == "train":
        raise UsageError("--select=best needs evaluations to choose from: --eval_every says how often there is one.")
    if config.autoreset != "auto" and config.engine not in ("sync", "async"):
        raise UsageError(f"--autoreset={config.autoreset} goes with --engine=sync or async, not with --engine={config.engine}.")
    return config
