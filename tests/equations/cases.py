"""One small call for every component of floors 1 and 2, so that laws can be asserted over all of them.

`CASES` says, for each component, the axes of what it returns and how it departs from the rule. Its arguments are those of `arguments`.
"""

import functools
import importlib
import inspect
import zlib
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from arguments import ARGUMENTS, SIZES, count, fraction, normal, seldom, simplex, sparse
from test_house import FLOORS

from tfpg import checks, psi
from tfpg.types import Critique, Horizon, Trajectory


def last(given):
    """The last valid step of each column, where nothing follows that a decay could multiply."""
    valid = given["mask_t"]
    return valid & ~np.concatenate([valid[1:], np.zeros_like(valid[:1])])


def everywhere(_):
    return True


def first_row(given):
    return np.arange(len(given["mask_t"]))[:, None] == 0


def last_row(key):
    return lambda given: np.arange(len(given[key])).reshape(-1, *[1] * (given[key].ndim - 1)) == len(given[key]) - 1


def unvisited(key):
    """Entries of a table that no trajectory passes through."""

    def entries(given):
        state_t, action_t, idle = given["state_t"], given["action_t"], np.ones_like(given[key], bool)
        for t, i in np.argwhere(given["mask_t"]):
            path = (*((state_t[t - 1, i], action_t[t - 1, i]) if t else ()), state_t[t, i])
            if key == "pi_t":
                idle[t, state_t[t, i], action_t[t, i]] = False
            elif len(path) == idle.ndim:
                idle[path] = False
        return idle

    return entries


UNVISITED = {key: unvisited(key) for key in ("start", "pi_t", "transition")}
ABOVE = {"scale_tril": lambda given: np.triu(np.ones_like(given["scale_tril"]), 1) > 0}
COVERED = {"p": lambda given: given["q"] > 0}
DECAYS = {"discount_t": last, "lambda_t": last}
FLAGS = ("terminated_t", "truncated_t")
REAL = {"axes": {"action": "N A"}, "draw": {"action": normal}, "tied": "A"}  # actions that are real vectors
LINEAR = {"state_t": "T N D", "action_t": "T N A"}
CUT = {"truncated_t": lambda given: given["terminated_t"] | last(given), "v_tp1": lambda given: given["terminated_t"]}


@dataclass(frozen=True)
class Case:
    """The axes of the results, and where the component departs from the rule.

    `axes` and `draw`: arguments with axes, or of a law, other than in ARGUMENTS. `idle`: entries that must not matter, besides padding.
    `tied`: axes whose entries are not alike, so that they cannot be permuted. `mixes`: columns look at one another.
    `loose`: round-off in units of the usual one, where XLA's singular values, good to seven digits, are differentiated.
    """

    results: str
    axes: dict = field(default_factory=dict)
    draw: dict = field(default_factory=dict)
    idle: dict = field(default_factory=dict)
    tied: str = ""
    mixes: bool = False
    loose: float = 1.0


CASES = {
    "processes.chain_step": Case("S"),
    "processes.chain_marginals": Case("H S"),
    "processes.open_loop_step": Case("S"),
    "processes.marginal_step": Case("S"),
    "processes.state_marginals": Case("T S", idle={"pi_t": last_row("pi_t")}),
    "processes.state_action_marginals": Case("T S A"),
    "processes.state_chain": Case("S S"),
    "processes.state_action_chain": Case("SA SA", tied="S A"),
    "processes.stationary": Case("S, "),
    "processes.average_reward": Case(""),
    "processes.observation_marginal": Case("O"),
    "processes.induced_policy": Case("S A", axes={"pi": "O A"}),
    "processes.policy_log_prob": Case("N"),
    "processes.trajectory_probability": Case("N", tied="S A", idle=UNVISITED),
    "processes.trajectory_log_prob": Case("N", tied="S A", idle=UNVISITED),
    "bellman.backup": Case("S A"),
    "bellman.expected_value": Case("S"),
    "bellman.advantage": Case("S A"),
    "bellman.finite_values": Case("T S A, T S"),
    "bellman.discounted_values": Case("S A, S"),
    "bellman.discounted_visitation": Case("S"),
    "bellman.average_values": Case(", S, S A"),
    "bellman.theorem_gradient": Case("P", axes={"score": "S A P", "occupancy": "T S A", "q": "T S A"}),
    "bellman.value_of_start": Case(""),
    "bellman.value_of_first_action": Case(""),
    "bellman.greedy": Case("S A"),
    "bellman.optimal_values": Case("H S A, H S"),
    "bellman.policy_iteration": Case("S A, S A, S, ", idle={"pi": None}),
    "objectives.over_trajectories": Case(""),
    "objectives.over_marginals": Case(""),
    "objectives.monte_carlo": Case(", "),
    "objectives.affine": Case(""),
    "objectives.likelihood": Case(""),
    "objectives.pseudo": Case(""),
    "estimators.trajectory_score": Case("N P"),
    "estimators.policy_gradient": Case("P"),
    "estimators.reinforce": Case("P"),
    "estimators.reinforce_sum": Case("P"),
    "estimators.expected_gradient": Case("P"),
    "estimators.expected_score": Case("N P", axes={"probability": "N K", "score": "N K P"}),
    "estimators.density_gradient": Case("K P"),
    "estimators.score_products": Case("T T P P", axes={"probability": "N"}),
    "estimators.score_reward_products": Case("T T P", axes={"probability": "N"}),
    "variance.exact": Case("P"),
    "variance.sampled": Case("P"),
    "variance.baseline_slope": Case("P"),
    "variance.offset_trace": Case(""),
    "variance.of_batch": Case("P", axes={"covariance": "P"}, draw={"covariance": fraction}),
    "returns.discount": Case("T N", idle={"like": everywhere}),
    "returns.trace": Case("T N", idle={"like": everywhere, **{a: lambda given, b=b: given[b] for a, b in (FLAGS, FLAGS[::-1])}}),
    "returns.scan_back": Case("T N", idle={"decay_t": last_row("decay_t")}),
    "returns.total_return": Case("N"),
    "returns.reward_to_go": Case("T N", idle=DECAYS),
    "returns.td_residual": Case("T N"),
    "returns.n_step": Case("T N", idle={"lambda_t": last}),
    "returns.gae": Case("T N", idle={"lambda_t": last}),
    "returns.lambda_return": Case("T N", idle={"lambda_t": last, "v_t": first_row}),
    "returns.discount_from_start": Case("T N"),
    "baselines.subtract": Case("T N"),
    "baselines.value_baseline": Case("T N"),
    "baselines.every_step": Case("T N", idle={"mask_t": everywhere}),
    "baselines.mean": Case("K", mixes=True),
    "baselines.leave_one_out": Case("K", mixes=True),
    "baselines.moving_average": Case(", "),
    "baselines.time_mean": Case("T N", mixes=True),
    "baselines.alive_mean": Case("T N", mixes=True),
    "baselines.time_leave_one_out": Case("T N", mixes=True),
    "baselines.pooled": Case("T N", mixes=True),
    "baselines.standardise": Case("T N", mixes=True),
    "baselines.optimal": Case(""),
    "baselines.optimal_per_parameter": Case("P"),
    "baselines.optimal_per_time": Case("T", axes={"probability": "N"}),
    "baselines.optimal_leave_one_out": Case("K P", mixes=True),
    "baselines.optimal_togo_leave_one_out": Case("K P", mixes=True),
    "surrogates.score": Case("T N", idle={"log_prob_old_t": everywhere}),
    "surrogates.importance": Case("T N"),
    "surrogates.clipped": Case("T N"),
    "surrogates.kl_penalised": Case("T N"),
    "surrogates.weights": Case("T N", mixes=True, idle={"like": everywhere}),
    "surrogates.weighted_sum": Case(""),
    "critics.monte_carlo_target": Case("T N", idle=DECAYS),
    "critics.td_target": Case("T N"),
    "critics.sarsa_target": Case("T N", axes={"q_tp1": "T N"}),
    "critics.expected_sarsa_target": Case("T N"),
    "critics.q_learning_target": Case("T N"),
    "critics.q_loss": Case(""),
    "critics.compatible_critic": Case("P", axes={"q": "K"}, loose=100),
    "critics.value_loss": Case(""),
    "critics.explained_variance": Case(""),
    "importance.effective_sample_size": Case(""),
    "importance.estimate": Case(", , , "),
    "importance.self_normalised": Case(""),
    "importance.uncovered": Case("N", axes={"q": "N K"}, draw={"q": sparse}, idle=COVERED),
    "importance.log_ratio": Case("T N"),
    "importance.log_trajectory_ratio": Case("N"),
    "importance.cumulative_log_ratio": Case("T N", idle={"lambda_t": last_row("lambda_t")}),
    "importance.weighted_return": Case("N"),
    "importance.per_decision_return": Case("N"),
    "importance.full": Case("T N"),
    "importance.full_togo": Case("T N"),
    "importance.causal": Case("T N", idle=DECAYS),
    "importance.drop_future": Case("T N", idle={"lambda_t": last}),
    "importance.marginal": Case("T N"),
    "importance.first_order": Case("T N"),
    "off_policy.second_moment": Case(""),
    "off_policy.expected_log_weight": Case(""),
    "off_policy.performance_difference": Case(""),
    "off_policy.state_shift_bound": Case("H"),
    "off_policy.mixture_log_prob": Case("T N"),
    "off_policy.guided_objective": Case(""),
    "distributions.categorical_log_prob": Case("N", tied="K"),
    "distributions.categorical_nll": Case("N", tied="K"),
    "distributions.onehot_nll": Case("N"),
    "distributions.categorical_score": Case("N K", tied="K"),
    "distributions.categorical_entropy": Case("N"),
    "distributions.categorical_kl": Case("N"),
    "distributions.categorical_fisher": Case("N K K"),
    "distributions.categorical_sample": Case("N", tied="K"),
    "distributions.gaussian_log_prob": Case("N", **REAL, idle=ABOVE),
    "distributions.gaussian_nll": Case("N", **REAL, idle=ABOVE),
    "distributions.gaussian_score_loc": Case("N A", **REAL, idle=ABOVE),
    "distributions.gaussian_score_covariance": Case("N A A", **REAL, idle=ABOVE),
    "distributions.gaussian_score_scale": Case("N A A", **REAL),
    "distributions.gaussian_kl": Case("N", tied="A", idle={"scale_q": lambda given: np.triu(np.ones_like(given["scale_q"]), 1) > 0}),
    "distributions.gaussian_entropy": Case("N", tied="A", idle={"scale_tril": lambda given: given["scale_tril"] * np.eye(SIZES["A"]) == 0}),
    "distributions.gaussian_sample": Case("N A", tied="A"),
    "distributions.diagonal_log_prob": Case("N", axes={"action": "N A"}, draw={"action": normal}),
    "distributions.diagonal_entropy": Case("N"),
    "distributions.diagonal_kl": Case("N"),
    "distributions.linear_gaussian_log_prob": Case("N"),
    "distributions.linear_gaussian_score": Case("N 2"),
    "divergences.kl": Case("N", axes={"q": "N K"}, draw={"q": simplex}),
    "divergences.mean_kl": Case(""),
    "divergences.quadratic": Case(""),
    "divergences.fisher": Case("P P"),
    "divergences.sampled_fisher": Case("P P"),
    "divergences.fisher_product": Case("P", axes={"v": "P"}),
    "linalg.shortest_solution": Case("P"),
    "trust_region.euclidean_step": Case("P"),
    "trust_region.step_size": Case(""),
    "trust_region.natural_gradient": Case("P"),
    "trust_region.natural_step": Case("P"),
    "models.model_loss": Case(""),
    "models.linear_model": Case("D DA1", axes=LINEAR, draw=dict.fromkeys(LINEAR, normal), tied="D A"),
    "neighbours.dueling": Case("N A", axes={"v": "N"}),
    "neighbours.deterministic": Case("N", **{**REAL, "tied": ""}),
    "neighbours.soft_actor": Case("N", axes={"log_prob": "N", "q": "N"}),
}

# What each member of the psi family reads.
PSI = {
    "total_return": "r_t mask_t gamma",
    "reward_to_go": "r_t terminated_t truncated_t mask_t gamma",
    "monte_carlo_advantage": "r_t terminated_t truncated_t mask_t v_t v_tp1 gamma",
    "action_value": "mask_t q_t",
    "advantage": "mask_t q_t v_t",
    "td_residual": "r_t terminated_t mask_t v_t v_tp1 gamma",
    "n_step": "r_t terminated_t truncated_t mask_t v_t v_tp1 gamma n",
    "gae": "r_t terminated_t truncated_t mask_t v_t v_tp1 gamma lambda_",
}


def of_records(member, names):
    """A component with arguments of its own from one that takes records."""

    def call(**given):
        take = given.get
        happened = {"reward": take("r_t"), "terminated": take("terminated_t"), "truncated": take("truncated_t"), "mask": take("mask_t")}
        trajectory = Trajectory(**{**dict.fromkeys(Trajectory._fields), **happened})
        critique = Critique(take("v_t"), take("v_tp1"), take("q_t"))
        return member(trajectory, critique, Horizon(take("gamma"), take("lambda_"), take("n")))

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, kind, annotation=int if name == "n" else tf.Tensor) for name in names.split()]
    call.__signature__ = inspect.Signature(parameters)
    return checks.component(call)


def discover():
    """Every component of floors 1 and 2, by module and name; and psi's functions of records."""
    found = {}
    for floor in (1, 2):
        for name in FLOORS[floor]:
            module = importlib.import_module(f"tfpg.{name}")
            own = {key: f for key, f in vars(module).items() if hasattr(f, "traced") and f.__module__ == module.__name__}
            found |= {f"{name}.{key}": f for key, f in own.items()}
    return found | {f"psi.{name}": of_records(getattr(psi, name), names) for name, names in PSI.items()}


COMPONENTS = discover()
CASES |= {f"psi.{name}": Case("T N", idle=CUT) for name in PSI}
CASES["psi.n_step"] = Case("T N", idle=CUT, draw={"n": count(2), "terminated_t": seldom, "truncated_t": seldom})
CASES["psi.reward_to_go"] = Case("T N", idle={a: lambda given, b=b: given[b] | last(given) for a, b in (FLAGS, FLAGS[::-1])})


def axes_of(name):
    """The axes of each argument of a component, in the order of its signature."""
    return {key: CASES[name].axes.get(key, ARGUMENTS[key][0]).split() for key in inspect.signature(COMPONENTS[name]).parameters}


def arguments_of(name, sizes=SIZES, seed=0):
    """Arrays, integers and words for one call, by name; the same ones for the same seed."""
    given = {}
    for key, axes in axes_of(name).items():
        draw = CASES[name].draw.get(key, ARGUMENTS[key][1])
        rng = np.random.default_rng([seed, zlib.crc32(f"{name} {key}".encode())])
        given[key] = draw(rng, tuple(sizes[axis] for axis in axes))
    return given


def result_axes(name):
    """The axes of each result, in the order of `tf.nest.flatten`."""
    return [axes.split() for axes in CASES[name].results.split(",")]


def is_float(x):
    return not isinstance(x, str) and np.issubdtype(np.asarray(x).dtype, np.floating)


def tensors(given, dtype="float64"):
    """The call's tensors, floating ones of one type; words stay words."""
    return {key: x if isinstance(x, str) else tf.constant(x, dtype if is_float(x) else None) for key, x in given.items()}


def padding(name, given):
    """Where a step counts for nothing, [T, N]; None for a component without padding."""
    if "mask_t" in given:
        return ~given["mask_t"]
    return given["w_t"] == 0 if "w_t" in given else None


def padded(name, given, key):
    """Padding as entries of one argument, False where the argument has none."""
    axes, outside = axes_of(name)[key], padding(name, given)
    if outside is None or "T N" not in " ".join(axes) or key in ("mask_t", "w_t"):
        return np.zeros(np.shape(given[key]), bool)
    further = np.ones([1] * len(axes[axes.index("N") + 1 :]), bool)
    return np.broadcast_to(outside.reshape(*outside.shape, *further.shape), given[key].shape)


def values(name, given, dtype="float64", call=None):
    """The results of one call, as a list of arrays."""
    call = call or COMPONENTS[name]
    return [np.asarray(x) for x in tf.nest.flatten(call(**tensors(given, dtype)))]


def value_and_slopes(name, given):
    """The results, and the derivatives of a sum over them, each entry with a weight of its own, in every floating argument."""
    inputs = {key: x for key, x in given.items() if tf.is_tensor(x) and x.dtype.is_floating}
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        results = tf.nest.flatten(COMPONENTS[name].python_function(**given))
        floats = [x for x in results if x.dtype.is_floating]
        weights = [tf.reshape(tf.cos(tf.cast(tf.range(tf.size(x)), x.dtype)), tf.shape(x)) for x in floats]
        total = tf.add_n([tf.constant(0.0, "float64"), *(tf.reduce_sum(x * w) for x, w in zip(floats, weights, strict=True))])
    slopes = tape.gradient(total, inputs, unconnected_gradients="zero")
    return results, {key: tf.convert_to_tensor(slope) for key, slope in slopes.items()}


@functools.cache
def program(name, mode):
    """float64 arguments -> results and slopes, and the results for the same arguments in float32: once for each way of running it."""

    def run(given, words):
        halves = {key: tf.cast(x, "float32") if x.dtype.is_floating else x for key, x in given.items()}
        wide, narrow = value_and_slopes(name, {**given, **words}), COMPONENTS[name].python_function(**halves, **words)
        return *wide, tf.nest.flatten(narrow)

    words = {key: x for key, x in arguments_of(name).items() if isinstance(x, str)}
    body = lambda given: run(given, words)  # noqa: E731
    call = body if mode == "python" else tf.function(body, autograph=False, jit_compile=mode == "xla")

    def numpy(given):
        results = call({key: x for key, x in tensors(given).items() if key not in words})
        return tf.nest.map_structure(np.asarray, results)

    return numpy
