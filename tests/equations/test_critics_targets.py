"""Targets of critics by their definitions: what they add up, where they stop, and that no gradient flows into them."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import critics, returns

equation = pytest.mark.equation
GAMMA = 0.9
# One column terminates, one is cut by the clock, one runs on, one holds two episodes; # is padding.
ROWS = np.array([list(column) for column in ("..T#", ".U##", "....", "T###", ".B##", ".U.T")]).T
TERMINATED, TRUNCATED, MASK = np.isin(ROWS, ["T", "B"]), np.isin(ROWS, ["U", "B"]), ROWS != "#"
DISCOUNT = np.where(TERMINATED, 0, GAMMA)
ENDED = TERMINATED | TRUNCATED


@pytest.fixture
def given(rng):
    pi = rng.dirichlet(np.ones(3), size=ROWS.shape)
    columns = dict(zip(("r_t", "v_tp1"), rng.normal(size=(2, *ROWS.shape)), strict=True))
    return {
        **columns,
        "discount_t": DISCOUNT,
        "lambda_t": 1.0 - ENDED,
        "mask_t": MASK,
        "q_tp1": rng.normal(size=(*ROWS.shape, 3)),
        "pi_tp1": pi,
    }


def arguments_of(name, given, dtype=tf.float64):
    chosen = {key: given[key] for key in inspect.signature(getattr(critics, name)).parameters}
    if name == "sarsa_target":
        chosen["q_tp1"] = given["v_tp1"]
    return {key: tf.constant(x, None if key == "mask_t" else dtype) for key, x in chosen.items()}


def bootstrapped(given, following):
    """r_t plus gamma times what follows, unless the task ended here; a clock that rang does not end it."""
    return [
        [given["r_t"][t, i] + (0 if TERMINATED[t, i] else GAMMA * following(t, i)) if MASK[t, i] else 0 for i in range(ROWS.shape[1])]
        for t in range(len(ROWS))
    ]


def last_of(t, i):
    """The last step, in this chunk, of the episode that step t of column i belongs to."""
    return next(u for u in range(t, len(ROWS)) if ENDED[u, i] or u + 1 == len(ROWS))


def monte_carlo(given):
    g = np.zeros(ROWS.shape)
    for t, i in np.argwhere(MASK):
        g[t, i] = sum(GAMMA ** (u - t) * given["r_t"][u, i] for u in range(t, last_of(t, i) + 1))
    return g


DEFINITIONS = {
    "monte_carlo_target": monte_carlo,
    "td_target": lambda given: bootstrapped(given, lambda t, i: given["v_tp1"][t, i]),
    "sarsa_target": lambda given: bootstrapped(given, lambda t, i: given["v_tp1"][t, i]),
    "expected_sarsa_target": lambda given: bootstrapped(
        given, lambda t, i: sum(given["pi_tp1"][t, i, a] * given["q_tp1"][t, i, a] for a in range(3))
    ),
    "q_learning_target": lambda given: bootstrapped(given, lambda t, i: max(given["q_tp1"][t, i])),
}
every_target = pytest.mark.parametrize("name", DEFINITIONS)


@equation("PG-59", "PG-60", "PG-61", "PG-131")
@every_target
@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float64, 1e-12), (tf.float32, 1e-5)])
def test_target_equals_its_definition(mode, name, dtype, tolerance, given):
    found = mode(getattr(critics, name))(**arguments_of(name, given, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, DEFINITIONS[name](given), rtol=tolerance, atol=tolerance)


@equation("PG-59", "PG-60", "PG-61", "PG-131")
@every_target
def test_no_gradient_flows_into_a_target(mode, name, given):
    tensors = arguments_of(name, given)
    keys = [key for key in tensors if key != "mask_t"]

    def slopes(**given):
        with tf.GradientTape() as tape:
            tape.watch([given[key] for key in keys])
            y = tf.reduce_sum(getattr(critics, name)(**given) ** 2)
        return tape.gradient(y, [given[key] for key in keys], unconnected_gradients="zero")

    assert not any(np.any(slope) for slope in mode(slopes)(**tensors))


@equation("PG-60", "PG-61", "PG-131")
@pytest.mark.parametrize("name", [name for name in DEFINITIONS if name != "monte_carlo_target"])
def test_what_follows_counts_after_a_truncation_and_not_after_a_termination(name, given):
    base = getattr(critics, name)(**arguments_of(name, given)).numpy()
    moved = {**given, "v_tp1": given["v_tp1"] + 2.5, "q_tp1": given["q_tp1"] + 2.5}
    change = getattr(critics, name)(**arguments_of(name, moved)).numpy() - base
    np.testing.assert_allclose(change, np.where(MASK & ~TERMINATED, GAMMA * 2.5, 0), atol=1e-12)


@equation("PG-59", "PG-131")
def test_full_trace_is_the_monte_carlo_target_of_what_terminated_and_more_of_what_was_cut(given):
    r_t, discount_t, mask_t = given["r_t"], DISCOUNT, MASK
    v_t = np.where(np.vstack([np.ones_like(ENDED[:1]), ENDED[:-1]]), 0.4, np.vstack([given["v_tp1"][:1], given["v_tp1"][:-1]]))
    full = returns.lambda_return(r_t, discount_t, 1.0 - ENDED, v_t, given["v_tp1"], mask_t).numpy()
    plain = critics.monte_carlo_target(r_t, discount_t, 1.0 - ENDED, mask_t).numpy()
    for t, i in np.argwhere(MASK):
        u = last_of(t, i)
        rest = 0 if TERMINATED[u, i] else GAMMA ** (u + 1 - t) * given["v_tp1"][u, i]
        np.testing.assert_allclose(full[t, i] - plain[t, i], rest, atol=1e-12)


@equation("PG-128")
def test_the_target_network_is_read_and_not_moved(mode, given):
    """DQN: the online Q is pulled towards r + gamma max Q of the frozen copy, and the copy stays."""
    online, frozen = tf.constant(given["q_tp1"] * 0.3), tf.constant(given["q_tp1"])
    action = tf.constant(np.arange(24).reshape(4, 6) % 3)

    def slopes(online, frozen):
        with tf.GradientTape() as tape:
            tape.watch((online, frozen))
            target_t = critics.q_learning_target(given["r_t"], DISCOUNT, frozen, tf.constant(MASK))
            y = critics.q_loss(tf.gather(online, action, axis=-1, batch_dims=2), target_t, tf.constant(MASK / 10))
        return tape.gradient(y, (online, frozen), unconnected_gradients="zero")

    in_online, in_frozen = mode(slopes)(online, frozen)
    expected, target_t = np.zeros(online.shape), np.array(DEFINITIONS["q_learning_target"](given))
    for t, i in np.argwhere(MASK):
        a = action[t, i]
        expected[t, i, a] = -2 * 0.1 * (target_t[t, i] - online[t, i, a])
    np.testing.assert_allclose(in_online, expected, rtol=1e-11, atol=1e-14)
    assert not np.any(in_frozen)


@equation("PG-58")
@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float64, 1e-11), (tf.float32, 1e-5)])
def test_the_loss_of_q_is_a_weighted_square_whose_gradient_reaches_q_alone(mode, dtype, tolerance, rng):
    q_t, target_t, w_t = rng.normal(size=(3, 4, 6))
    w_t = np.where(MASK, w_t**2, 0)

    def loss(q):
        return sum(w_t[i] * (target_t[i] - q[i]) ** 2 for i in np.ndindex(4, 6))

    def value_and_slopes(q_t, target_t, w_t):
        with tf.GradientTape() as tape:
            tape.watch((q_t, target_t))
            y = critics.q_loss(q_t, target_t, w_t)
        return y, tape.gradient(y, (q_t, target_t), unconnected_gradients="zero")

    value, (in_q, in_target) = mode(value_and_slopes)(*(tf.constant(x, dtype) for x in (q_t, target_t, w_t)))
    np.testing.assert_allclose(value, loss(q_t), rtol=tolerance)
    np.testing.assert_allclose(in_q, finite_difference(loss, q_t), rtol=0, atol=max(tolerance, 1e-8))
    assert not np.any(in_target)
