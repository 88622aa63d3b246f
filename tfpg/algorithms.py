"""The table: every algorithm is one row of words, and neighbouring rows differ in one.

psi        what multiplies the score of the action at t                       `psi.FAMILY`
baseline   what is subtracted from it; 'value' is V, inside psi where psi has it   `assess.BASELINES`
critic     what V or Q is fitted to, where something asks for them            `assess.TARGETS`
surrogate  the per-step objective that is ascended                            `problem.SURROGATES`
improve    how the parameters move                                            `improve.IMPROVEMENTS`

This page is plain Python, so that `--help` and a mistyped flag need not wait for TensorFlow. `DEFAULTS` holds what a row sets
differently from the flags' own defaults.
"""

from typing import Any, NamedTuple


class Algorithm(NamedTuple):
    """One row of the table."""

    psi: str
    baseline: str
    critic: str
    surrogate: str
    improve: str


ALGORITHMS = {
    "reinforce": Algorithm("return", "none", "monte_carlo", "score", "ascend"),
    "reinforce_togo": Algorithm("togo", "none", "monte_carlo", "score", "ascend"),
    "reinforce_baseline": Algorithm("togo", "value", "monte_carlo", "score", "ascend"),
    "actor_critic": Algorithm("td", "value", "td", "score", "ascend"),
    "a2c": Algorithm("n_step", "value", "td", "score", "ascend"),
    "off_policy": Algorithm("togo", "value", "monte_carlo", "causal", "epochs"),
    "npg_fixed": Algorithm("gae", "value", "lambda", "importance", "natural_fixed"),
    "npg": Algorithm("gae", "value", "lambda", "importance", "natural"),
    "trpo": Algorithm("gae", "value", "lambda", "importance", "natural_search"),
    "ppo": Algorithm("gae", "value", "lambda", "clipped", "epochs"),
    "ppo_kl": Algorithm("gae", "value", "lambda", "kl_penalised", "epochs"),
    "pathwise": Algorithm("gae", "value", "lambda", "pathwise", "epochs"),
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "actor_critic": {"learning_rate": 2e-3, "horizon": 32, "whiten": True},
    "a2c": {"learning_rate": 2e-3, "horizon": 16, "whiten": True, "n_steps": 16, "optimizer": "rmsprop", "gradient_clip": 0.5},
    "off_policy": {"learning_rate": 3e-3, "epochs": 4, "minibatches": 1},
    "ppo": {"learning_rate": 1e-3, "epochs": 10, "minibatches": 16, "whiten": True, "gradient_clip": 0.5},
    "ppo_kl": {"learning_rate": 1e-3, "epochs": 10, "minibatches": 16, "whiten": True, "gradient_clip": 0.5},
    "pathwise": {
        "env": "tfpg/LQR-v0",
        "n_steps": 10,
        "discount": 1.0,
        "learning_rate": 3e-3,
        "epochs": 1,
        "minibatches": 8,
        "critic_epochs": 20,
        "critic_learning_rate": 3e-3,
        "initial_log_std": -1.0,
    },
}

PSI = ("return", "togo", "q", "advantage", "td", "n_step", "gae")
BASELINES = ("none", "mean", "leave_one_out", "moving_average", "time_mean", "optimal", "optimal_per_parameter", "value")
CRITICS = ("monte_carlo", "sarsa", "q_learning", "td", "lambda")
WEIGHTS = ("trajectory", "causal", "drop_future", "first_order")

GROUPED = ("mean", "leave_one_out", "time_mean")
"""Baselines that are made of the other trajectories of a group."""

WHOLE = ("return", "togo")
"""Members of psi that need whole episodes; the others do with chunks of them."""

ACTION_VALUE = ("q", "advantage")
"""Members of psi that need Q."""


def whole_episodes(row: Algorithm) -> bool:
    """Whether a batch is whole episodes, each from its first step, rather than chunks that continue."""
    return row.psi in WHOLE


def needs_critic(row: Algorithm) -> bool:
    """Whether anything reads V or Q."""
    return row.surrogate != "pathwise" and (row.baseline == "value" or row.psi not in WHOLE)


def fits_q(row: Algorithm) -> bool:
    """Whether the critic is Q(o, a); otherwise it is V(o)."""
    return row.critic in ("sarsa", "q_learning") or (row.critic == "monte_carlo" and row.psi in ACTION_VALUE)


def natural(row: Algorithm) -> bool:
    """Whether the policy is improved by a natural gradient."""
    return row.improve.startswith("natural")


def in_columns(row: Algorithm) -> bool:
    """Whether the objective reads whole columns of a trajectory (its weights are products over time), not single samples."""
    return row.surrogate in (*WEIGHTS, "guided")


def weighs_wholes(row: Algorithm) -> bool:
    """Whether trajectories are weighed as wholes, each held against the others of the batch."""
    return row.surrogate in WEIGHTS[:3]


def needs_others(row: Algorithm) -> bool:
    """Whether the baseline of a trajectory is made of the others of the batch."""
    return row.baseline in ("leave_one_out", "time_mean", "optimal", "optimal_per_parameter") or row[:2] == ("return", "mean")


def varied(row: Algorithm, psi: str, baseline: str, critic: str, weights: str) -> Algorithm:
    """A row with words of its own choice; an empty word stands for the row's, or for what the other words leave possible."""
    psi = psi or row.psi
    if not baseline:
        baseline = row.baseline if psi in WHOLE else ("none" if psi == "q" else "value")
    if not critic:
        critic = "sarsa" if psi in ACTION_VALUE and row.critic not in ("sarsa", "q_learning") else row.critic
    return Algorithm(psi, baseline, critic, weights or row.surrogate, row.improve)


def _of_baselines(row: Algorithm) -> str | None:
    """Why its baseline makes no sense; None if it does."""
    if row.psi not in WHOLE and row.baseline not in ("value", "none"):
        return f"--psi={row.psi} has its baseline inside; --psi=return and --psi=togo take one"
    if row.psi == "q" and row.baseline == "value":
        return "Q minus V is --psi=advantage"
    if row.psi not in (*WHOLE, "q") and row.baseline == "none":
        return f"--psi={row.psi} has V inside; --psi=return, togo and q do without"
    if row.baseline == "time_mean" and row.psi != "togo":
        return "a mean for each time step goes with --psi=togo; --baseline=mean or leave_one_out with --psi=return"
    if row.baseline == "optimal_per_parameter" and (row.surrogate, row.improve) != ("score", "ascend"):
        return (
            "a baseline for each parameter leaves a gradient but no objective to search or to repeat; "
            "it goes with the reinforce rows, and --baseline=optimal with every row whose psi is return or togo"
        )
    return None


def nonsense(row: Algorithm) -> tuple[str, str] | None:
    """Why the words of a row make no sense together: the word to blame and a sentence that says what would work; None if they do."""
    why = _of_baselines(row)
    if why:
        return "baseline", why
    if row.psi in ACTION_VALUE and not fits_q(row):
        return "critic", f"--psi={row.psi} needs Q(o, a); --critic=sarsa, q_learning and monte_carlo fit it"
    if row.surrogate == "causal" and row.psi != "togo":
        return "psi", "--weights=causal weighs each reward by its own past, which is --psi=togo"
    if row.surrogate in WEIGHTS and not whole_episodes(row):
        return "psi", "the products of ratios run over whole episodes; --psi=return and --psi=togo go with off_policy"
    return None
