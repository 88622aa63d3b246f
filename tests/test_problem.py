"""A batch as a problem in theta: every surrogate's gradient is a sum of scores times weights that numpy makes, in float64."""

import numpy as np
import pytest
import tensorflow as tf
import two_policies as two
from laws import finite_difference
from learners import FULL, SEED, make

from tfpg import algorithms, gradients, lqr, nets, policies, trees
from tfpg.learner import initial_state
from tfpg.problem import Batch, effective_share, policy_problem, take
from tfpg.types import TrainState

equation = pytest.mark.equation
GAMMA = 0.9
ONE = tf.constant(1.0, tf.float64)
TABLE = policies.categorical(nets.mlp([two.S, two.A], dtype=tf.float64), two.A, dtype=tf.float64)
FORMS = algorithms.WEIGHTS


def params(theta):
    """A table of logits as a network that sees one-hot states."""
    return ({"kernel": tf.constant(theta), "bias": tf.zeros([two.A], tf.float64)},)


def tabular(form, **numbers):
    """A learner of the off-policy row, whose policy is the table, and a state that holds the old one."""
    made = make("off_policy", psi="return" if form == "return" else "togo", weights="trajectory" if form == "return" else form)
    made = made._replace(policy=TABLE, objective=made.objective._replace(**numbers))
    return made, initial_state(make("npg"), SEED)._replace(policy=params(two.OLD))


def columns(chosen=slice(None), baseline=0.0, weight=None, scale=1.0):
    """The trajectories of `two_policies` (some of them, each as often as it is named) as a batch in columns; garbage on padding is finite.

    psi = scale (G - b); `baseline` [S] is a number for each state.
    """
    mask, states, actions = (x[:, chosen] for x in (two.MASK, two.STATES, two.ACTIONS))
    b = np.broadcast_to(baseline, [two.S])[states] * mask
    scale = np.broadcast_to(scale, [two.T])[:, None] * np.ones(mask.shape)
    psi = scale * mask * (two.reward_to_go(GAMMA)[:, chosen] - b)
    weight = mask / mask.shape[1] if weight is None else mask * weight
    rest = (two.R[:, chosen], np.full(mask.shape, GAMMA), 1.0 - two.LAST[:, chosen], mask, b, scale)
    observation, log_prob = np.eye(two.S)[states], two.log_prob(two.OLD)[:, chosen]
    return Batch(*map(tf.constant, (observation, actions.astype(np.int32), log_prob, psi, weight, mask / mask.sum(), *rest)))


def drawn(rng, n=40):
    """Columns drawn under the old policy: [n] numbers."""
    p = two.probability(two.OLD)
    return rng.choice(two.N, n, p=p / p.sum())


def kernel(nest):
    return np.ravel(nest[0]["kernel"])


def slope(form, theta, batch, **numbers):
    made, state = tabular(form, **numbers)
    return kernel(policy_problem(made, state, batch, FULL, SEED).gradient(params(theta)))


def looped(form, theta, batch, self_normalise=False):
    """psi_t of a form by products of ratios, one after another, and a mean over columns for the weights."""
    batch = tf.nest.map_structure(np.array, batch)
    rho = np.exp(np.where(batch.mask, policy_log_prob(theta, batch) - batch.log_prob, 0))
    steps, n = rho.shape
    w = np.array([[np.prod(rho[: k + 1, i]) for i in range(n)] for k in range(steps)])
    whole = np.prod(rho, axis=0)
    mask, psi = batch.mask, batch.psi
    if form == "trajectory":
        return np.where(mask, whole / (whole.mean() if self_normalise else 1) * psi, 0)
    if form == "first_order":
        return np.where(mask, rho / (rho[mask].mean() if self_normalise else 1) * psi, 0)
    if self_normalise:
        w = w / w.mean(axis=1, keepdims=True)
    if form == "drop_future":
        return np.where(mask, w * psi, 0)
    found = np.zeros(rho.shape)
    for k, i in np.argwhere(mask):
        paid = sum(GAMMA ** (u - k) * w[u, i] * batch.reward[u, i] for u in range(k, steps) if mask[u, i])
        found[k, i] = batch.scale[k, i] * (paid - w[k, i] * batch.baseline[k, i])
    return found


def policy_log_prob(theta, batch):
    pi = two.policy(theta)
    return np.log(pi[np.argmax(batch.observation, -1), batch.action])


def weighed_scores(theta, batch, psi):
    """sum_t w_t grad log pi(a_t|s_t) psi_t for the kernel, flat."""
    batch = tf.nest.map_structure(np.array, batch)
    total, states = np.zeros((two.S, two.A)), np.argmax(batch.observation, -1)
    for k, i in np.argwhere(batch.mask):
        s, a = states[k, i], batch.action[k, i]
        total[s] += batch.weight[k, i] * psi[k, i] * (np.eye(two.A)[a] - two.policy(theta)[s])
    return total.ravel()


@equation("PG-75", "PG-76", "PG-77", "PG-79", "PG-71")
@pytest.mark.parametrize("self_normalise", [False, True])
@pytest.mark.parametrize("baseline", [0.0, [0.3, -0.6, 0.9, 0.2]])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_s_gradient_is_scores_times_products_of_ratios(form, baseline, self_normalise, mode, rng):
    batch = columns(drawn(rng), baseline, scale=GAMMA ** np.arange(two.T))
    made, state = tabular(form, self_normalise=self_normalise)
    run = mode(lambda theta: policy_problem(made, state, batch, FULL, SEED).gradient(theta))
    wanted = weighed_scores(two.NEW, batch, looped(form, two.NEW, batch, self_normalise))
    np.testing.assert_allclose(kernel(run(params(two.NEW))), wanted, rtol=1e-9, atol=1e-11)
    assert np.abs(wanted - weighed_scores(two.NEW, batch, np.array(batch.psi))).max() > 1e-2


@equation("PG-80")
@pytest.mark.parametrize("self_normalise", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_on_policy_every_form_is_the_plain_gradient(form, self_normalise, rng):
    batch = columns(drawn(rng), [0.3, -0.6, 0.9, 0.2])
    plain = weighed_scores(two.OLD, batch, np.array(batch.psi))
    np.testing.assert_allclose(slope(form, two.OLD, batch, self_normalise=self_normalise), plain, rtol=1e-9, atol=1e-11)
    assert np.abs(plain).max() > 1e-2


@equation("PG-75", "PG-76", "PG-51")
@pytest.mark.parametrize("baseline", [0.0, [0.3, -0.6, 0.9, 0.2]])
@pytest.mark.parametrize("form", FORMS)
def test_exact_forms_expect_the_gradient_of_the_new_policy_s_return(form, baseline):
    """Over every trajectory there is, weighed by its probability under the old policy; the other forms are something else."""
    batch = columns(baseline=baseline, weight=two.probability(two.OLD), scale=GAMMA ** np.arange(two.T))
    exact = finite_difference(lambda theta: two.objective(theta, GAMMA), two.NEW).ravel()
    found = slope(form, two.NEW, batch)
    if form in ("trajectory", "causal"):
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-9)
    else:
        assert np.abs(found - exact).max() > 4e-3


@equation("PG-74")
def test_the_whole_product_times_the_whole_return_is_exact_too():
    weight = two.probability(two.OLD)
    batch = columns(weight=weight)
    total = np.broadcast_to(two.reward_to_go(GAMMA)[0], [two.T, two.N]) * two.MASK
    found = slope("return", two.NEW, batch._replace(psi=tf.constant(total)))
    np.testing.assert_allclose(found, finite_difference(lambda theta: two.objective(theta, GAMMA), two.NEW).ravel(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_what_lies_on_padding_reaches_no_gradient(form, rng):
    chosen = drawn(rng)
    batch = columns(chosen)
    hidden = ~batch.mask.numpy()
    assert hidden.any()
    spoiled = {name: np.where(hidden, 1e3, getattr(batch, name)) for name in ("log_prob", "psi", "reward", "baseline", "scale", "discount")}
    dirty = batch._replace(**{name: tf.constant(x) for name, x in spoiled.items()})
    np.testing.assert_array_equal(slope(form, two.NEW, dirty), slope(form, two.NEW, batch))


@equation("PG-71")
@pytest.mark.parametrize("form", FORMS)
def test_effective_share_is_its_definition_and_ignores_padding(form, rng):
    batch = columns(drawn(rng))
    mask = batch.mask.numpy()
    rho = np.exp(np.where(mask, policy_log_prob(two.NEW, batch) - np.array(batch.log_prob), 0))
    w = rho[mask] if form == "first_order" else rho.prod(0)
    wanted = w.sum() ** 2 / (w**2).sum() / len(w)
    dirty = tf.constant(np.where(mask, policy_log_prob(two.NEW, batch), 50.0))
    assert float(effective_share(form, dirty, batch)) == pytest.approx(wanted, rel=1e-9)
    made, state = tabular(form)
    problem = policy_problem(made, state, batch, FULL, SEED)
    assert float(problem.overlap(params(two.NEW))) == pytest.approx(wanted, rel=1e-6)
    assert float(problem.overlap(params(two.OLD))) == pytest.approx(1)
    assert 0.05 < wanted < 0.9


def sampled(rng, m=36, kind="categorical"):
    """A policy with a hidden layer, old parameters and new ones, and a batch of samples with ratios on both sides of 1."""
    net = nets.mlp([2, 5, 3 if kind == "categorical" else 2], dtype=tf.float64)
    policy = (
        policies.categorical(net, 3, dtype=tf.float64)
        if kind == "categorical"
        else policies.gaussian(net, [-1] * 2, [1] * 2, dtype=tf.float64)
    )
    moved = lambda nest, scale: tf.nest.map_structure(lambda x: x + scale * rng.normal(size=x.shape), nest)  # noqa: E731
    old = moved(policy.init(SEED), 0.4)
    new = moved(old, 0.25)
    observation = tf.constant(rng.normal(size=[m, 2]))
    p = policy.parameters(old, observation)
    action = policy.act(p, policy.noise([m], SEED))
    weight, share = rng.uniform(0.2, 1, size=m) / m, rng.uniform(0.2, 1, size=m)
    columns = (observation, action, policy.distribution(p).log_prob(action), rng.normal(size=m), weight, share / share.sum())
    return policy, old, new, Batch(*map(tf.convert_to_tensor, columns))


def problem_of(algo, policy, old, batch, pace=1.0, penalty=0.7, **numbers):
    made = make(algo)
    made = made._replace(policy=policy, objective=made.objective._replace(**numbers))
    state = initial_state(make("npg"), SEED)._replace(policy=old, penalty=tf.constant(penalty, tf.float64))
    return policy_problem(made, state, batch, tf.constant(pace, tf.float64), SEED)


def score_rows(policy, theta, batch):
    rows = gradients.score(policy, theta, batch.observation, batch.action)
    return np.concatenate([np.reshape(leaf, [len(batch.weight), -1]) for leaf in tf.nest.flatten(rows)], 1)


def ratios(policy, new, batch):
    return np.exp(policy.distribution(policy.parameters(new, batch.observation)).log_prob(batch.action) - batch.log_prob)


@equation("PG-83")
@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
@pytest.mark.parametrize("pace", [1.0, 0.5])
def test_clipped_gradient_counts_the_samples_that_are_not_clipped(pace, kind, mode, rng):
    """epsilon follows the pace: some samples are clipped at one and not at the other."""
    policy, old, new, batch = sampled(rng, kind=kind)
    rho, psi = ratios(policy, new, batch), np.array(batch.psi)
    clipped = {e: ((psi > 0) & (rho > 1 + e)) | ((psi < 0) & (rho < 1 - e)) for e in (0.2, 0.1)}
    assert 0 < clipped[0.2].sum() < clipped[0.1].sum() < len(rho)
    w = np.array(batch.weight) * np.where(clipped[0.2 * pace], 0, rho * psi)
    run = mode(lambda theta: problem_of("ppo", policy, old, batch, pace).gradient(theta))
    np.testing.assert_allclose(trees.flatten(run(new)), w @ score_rows(policy, new, batch), rtol=1e-8, atol=1e-10)


@equation("PG-79", "PG-82")
def test_importance_gradient_is_that_of_ratios(rng):
    policy, old, new, batch = sampled(rng)
    w = np.array(batch.weight) * ratios(policy, new, batch) * np.array(batch.psi)
    found = problem_of("npg", policy, old, batch).gradient(new)
    np.testing.assert_allclose(trees.flatten(found), w @ score_rows(policy, new, batch), rtol=1e-9, atol=1e-11)


@equation("PG-84")
@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_penalised_gradient_subtracts_beta_times_that_of_the_kl_from_old_to_new(kind, rng):
    policy, old, new, batch = sampled(rng, kind=kind)
    w = np.array(batch.weight) * ratios(policy, new, batch) * np.array(batch.psi)
    p = {name: np.array(x) for name, x in policy.parameters(old, batch.observation).items()}

    def kl(vector):
        q = policy.parameters(trees.unflatten(tf.constant(vector), new), batch.observation)
        q = {name: np.array(x) for name, x in q.items()}
        if kind == "categorical":
            a, b = (z["logits"] - np.log(np.exp(z["logits"]).sum(-1, keepdims=True)) for z in (p, q))
            each = (np.exp(a) * (a - b)).sum(-1)
        else:
            d = q["log_std"] - p["log_std"]
            each = (d + (np.exp(2 * p["log_std"]) + (p["loc"] - q["loc"]) ** 2) / (2 * np.exp(2 * q["log_std"])) - 0.5).sum(-1)
        return (np.array(batch.weight) * each).sum()

    wanted = w @ score_rows(policy, new, batch) - 0.7 * finite_difference(kl, trees.flatten(new))
    found = problem_of("ppo_kl", policy, old, batch).gradient(new)
    np.testing.assert_allclose(trees.flatten(found), wanted, rtol=1e-6, atol=1e-8)
    at_old = [trees.flatten(problem_of("ppo_kl", policy, old, batch, penalty=beta).gradient(old)) for beta in (0.0, 30.0)]
    np.testing.assert_allclose(*at_old, atol=1e-10)


@pytest.mark.parametrize("algo", ["reinforce", "npg", "ppo"])
def test_entropy_bonus_adds_the_gradient_of_entropy_weighed_as_psi_is(algo, rng):
    policy, old, new, batch = sampled(rng)

    def entropy(vector):
        logits = np.array(policy.parameters(trees.unflatten(tf.constant(vector), new), batch.observation)["logits"])
        log_pi = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -(np.array(batch.weight) * (np.exp(log_pi) * log_pi).sum(-1)).sum()

    without, bonus = (trees.flatten(problem_of(algo, policy, old, batch, entropy_bonus=b).gradient(new)) for b in (0.0, 0.3))
    np.testing.assert_allclose(bonus - without, 0.3 * finite_difference(entropy, trees.flatten(new)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("algo", ["npg", "ppo", "ppo_kl", "reinforce"])
def test_parts_average_to_the_whole(algo, rng):
    """Objective, gradient and divergence of three parts that share a batch out, the remainder included."""
    policy, old, new, batch = sampled(rng)
    whole = problem_of(algo, policy, old, batch, entropy_bonus=0.3)
    parts = [whole.part(tf.constant(rows)) for rows in rng.permutation(36).reshape(3, 12)]
    for name in ("objective", "divergence"):
        average = np.mean([getattr(part, name)(new) for part in parts])
        assert average == pytest.approx(float(getattr(whole, name)(new)), rel=1e-12)
    np.testing.assert_allclose(np.mean([trees.flatten(part.gradient(new)) for part in parts], 0), trees.flatten(whole.gradient(new)))
    assert float(parts[0].objective(new)) != pytest.approx(float(whole.objective(new)), rel=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_parts_of_columns_average_to_the_whole(form, rng):
    made, state = tabular(form)
    whole = policy_problem(made, state, columns(drawn(rng)), FULL, SEED)
    found = [kernel(whole.part(tf.constant(rows)).gradient(params(two.NEW))) for rows in rng.permutation(40).reshape(4, 10)]
    np.testing.assert_allclose(np.mean(found, 0), kernel(whole.gradient(params(two.NEW))), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_self_normalised_parts_divide_by_their_own_mean(form, rng):
    chosen = drawn(rng)
    made, state = tabular(form, self_normalise=True)
    rows = np.array([3, 17, 5, 22, 30, 11, 9, 1])
    part = policy_problem(made, state, columns(chosen), FULL, SEED).part(tf.constant(rows))
    alone = policy_problem(made, state, columns(chosen[rows]), FULL, SEED)
    np.testing.assert_allclose(kernel(part.gradient(params(two.NEW))), kernel(alone.gradient(params(two.NEW))), rtol=1e-9, atol=1e-12)


def test_a_part_keeps_its_columns_together(rng):
    batch = columns(drawn(rng, 6))
    part = take(batch, tf.constant([4, 0, 1]), axis=1)
    for name in ("observation", "action", "log_prob", "psi", "reward", "mask"):
        np.testing.assert_array_equal(getattr(part, name), getattr(batch, name).numpy()[:, [4, 0, 1]])
    np.testing.assert_allclose(part.weight, 2 * batch.weight.numpy()[:, [4, 0, 1]])
    np.testing.assert_allclose(part.share, 2 * batch.share.numpy()[:, [4, 0, 1]])


# The gradient through a model.


def linear_learner(horizon, theta, k_shift=0.0):
    """The pathwise row on s' = s + a, r = -(s^2 + a^2), its model exact, and its policy a ~ N(k s, sigma^2) in float64."""
    task = lqr.LQR(horizon=horizon, gamma=GAMMA, start_variance=1.0)
    made = make("pathwise", "real", n_steps=horizon)

    def parameters(theta, s):
        return {"loc": theta[0] * s, "log_std": tf.math.log(theta[1]) * tf.ones_like(s)}

    plain = policies.gaussian(nets.mlp([1, 1], dtype=tf.float64), [-np.inf], [np.inf], dtype=tf.float64)
    policy = plain._replace(parameters=parameters)
    model = nets.Net(lambda seed: (), lambda phi, x: tf.concat([x[:, 1:], -tf.reduce_sum(x**2, -1, keepdims=True)], -1))
    made = made._replace(policy=policy, model=model, horizon=made.horizon._replace(gamma=GAMMA, n=horizon))
    state = TrainState(tf.constant(theta, tf.float64), (), (), (), (), (), model=())
    return task, made, state


def starts(m, rng):
    s = tf.constant(rng.normal(size=[m, 1]))
    flat = tf.fill([m], tf.constant(1 / m, tf.float64))
    return Batch(s, tf.zeros([m, 1], tf.float64), 0 * flat, 0 * flat, flat, flat)


@equation("PG-121", "PG-112")
def test_with_the_exact_model_the_pathwise_gradient_is_that_of_the_regulator(rng):
    """200,000 starts and noises: within 5 standard errors of the closed form, which the errors of 20 parts tell."""
    task, made, state = linear_learner(6, [-0.3, 0.5])
    run = tf.function(lambda batch, seed: policy_problem(made, state, batch, ONE, seed).gradient(state.policy))
    found = np.array([run(starts(10_000, rng), tf.constant([5, k])) for k in range(20)])
    error = found.std(0, ddof=1) / np.sqrt(20)
    exact = task.gradient([-0.3, 0.5]).numpy()
    assert (np.abs(found.mean(0) - exact) < 5 * error).all()
    assert (error < 0.02 * np.abs(exact)).all()


@equation("PG-121")
def test_the_pathwise_objective_is_an_unrolled_model(rng):
    """n modelled steps in numpy, of a model and a policy with hidden layers."""
    made = make("pathwise", "real")
    state = initial_state(made, SEED)
    state = state._replace(policy=tf.nest.map_structure(lambda x: x + 0.3 * rng.normal(size=x.shape).astype("f"), state.policy))
    s = rng.normal(size=[4, 2]).astype(np.float32)
    w = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    batch = Batch(tf.constant(s), tf.zeros([4, 2]), tf.zeros([4]), tf.zeros([4]), tf.constant(w), tf.constant(w))
    noise_t = made.policy.noise([3, 4], SEED).numpy().astype(float)

    def network(params, x):
        for layer in params[:-1]:
            x = np.tanh(x @ layer["kernel"].numpy().astype(float) + layer["bias"].numpy())
        return x @ params[-1]["kernel"].numpy().astype(float) + params[-1]["bias"].numpy()

    now, total = s.astype(float), np.zeros(4)
    for k in range(3):
        action = network(state.policy["net"], now) + np.exp(state.policy["log_std"].numpy()) * noise_t[k]
        answer = network(state.model, np.concatenate([now, action], -1))
        total, now = total + GAMMA**k * answer[:, -1], now + answer[:, :-1]
    found = policy_problem(made, state, batch, FULL, SEED).objective(state.policy)
    assert float(found) == pytest.approx((w * total).sum(), rel=1e-5)
    assert abs((w * total).sum()) > 1e-2
