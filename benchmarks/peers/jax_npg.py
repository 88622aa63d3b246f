"""The natural policy gradient on CartPole in JAX, as tfpg's row `npg` has it: a peer without a step of Python in it.

One jitted function is one iteration: a scan over time of vmapped environments, generalised advantages by a reverse scan, ten steps of
conjugate gradient, five epochs of a critic. The network is linearised once for all Fisher products: `jax.linearize` keeps its activations.
Sizes, numbers and order are tfpg's: observations are standardised by running statistics, value targets too, advantages are not; the step
fills the KL radius.

    python jax_npg.py --envs=64 --horizon=128 --iterations=40      prints one line of JSON
"""

import argparse
import itertools
import json
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

GAMMA, LAMBDA, RADIUS, DAMPING, CG, EPOCHS, MINIBATCHES, RATE = 0.99, 0.95, 0.01, 0.1, 10, 5, 8, 1e-3
LIMIT = 500


def reset(key: jax.Array) -> jax.Array:
    return jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)


def physics(s: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The next state of one cart, and whether it has fallen or left."""
    x, x_dot, angle, angle_dot = s
    force = jnp.where(action == 1, 10.0, -10.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    push = (force + 0.05 * angle_dot**2 * sin) / 1.1
    angle_acc = (9.8 * sin - cos * push) / (0.5 * (4.0 / 3.0 - 0.1 * cos**2 / 1.1))
    x_acc = push - 0.05 * angle_acc * cos / 1.1
    s = jnp.stack([x + 0.02 * x_dot, x_dot + 0.02 * x_acc, angle + 0.02 * angle_dot, angle_dot + 0.02 * angle_acc])
    return s, (jnp.abs(s[0]) > 2.4) | (jnp.abs(s[2]) > 12 * 2 * math.pi / 360)


def mlp_init(key: jax.Array, sizes: list[int], last: float) -> Any:
    gains = [math.sqrt(2)] * (len(sizes) - 2) + [last]
    keys = jax.random.split(key, len(gains))
    shapes = itertools.pairwise(sizes)
    return [
        (jax.nn.initializers.orthogonal(gain)(k, shape), jnp.zeros(shape[1])) for k, gain, shape in zip(keys, gains, shapes, strict=True)
    ]


def mlp(w: Any, x: jax.Array) -> jax.Array:
    *hidden, (kernel, bias) = w
    for k, b in hidden:
        x = jnp.tanh(x @ k + b)
    return x @ kernel + bias


class Moments(NamedTuple):
    mean: jax.Array
    variance: jax.Array
    count: jax.Array


def take_in(m: Moments, x: jax.Array) -> Moments:
    """Running moments with a batch [M, ...] taken in."""
    n, mean, variance = x.shape[0], x.mean(0), x.var(0)
    total = m.count + n
    delta = mean - m.mean
    spread = (m.variance * m.count + variance * n + delta**2 * m.count * n / total) / total
    return Moments(m.mean + delta * n / total, spread, total)


def standard(m: Moments, x: jax.Array) -> jax.Array:
    return (x - m.mean) / jnp.sqrt(m.variance + 1e-8)


class State(NamedTuple):
    policy: Any
    value: Any
    adam: Any  # count, mean, square
    seen: Moments
    targets: Moments
    cart: jax.Array  # [N, 4]
    age: jax.Array  # [N]
    running: jax.Array  # [N]


def start(key: jax.Array, n: int) -> State:
    keys = jax.random.split(key, 3)
    policy, value = mlp_init(keys[0], [4, 64, 64, 2], 0.01), mlp_init(keys[1], [4, 64, 64, 1], 1.0)
    zeros = [jax.tree.map(jnp.zeros_like, value) for _ in range(2)]
    moments = lambda shape: Moments(jnp.zeros(shape), jnp.ones(shape), jnp.array(1e-4))  # noqa: E731
    carts = jax.vmap(reset)(jax.random.split(keys[2], n))
    return State(policy, value, (jnp.array(0), *zeros), moments((4,)), moments(()), carts, jnp.zeros(n, int), jnp.zeros(n))


def collect(s: State, key: jax.Array, horizon: int) -> tuple[State, Any, jax.Array]:
    n = s.cart.shape[0]

    def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
        cart, age, running = carry
        keys = jax.random.split(key, 2)
        logits = mlp(s.policy, standard(s.seen, cart))
        action = jax.random.categorical(keys[0], logits)
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)[:, 0]
        after, terminated = jax.vmap(physics)(cart, action)
        truncated, running = age + 1 >= LIMIT, running + 1.0
        ended = terminated | truncated
        fresh = jax.random.uniform(keys[1], (n, 4), minval=-0.05, maxval=0.05)
        following = jnp.where(ended[:, None], fresh, after), jnp.where(ended, 0, age + 1), jnp.where(ended, 0.0, running)
        return following, (cart, action, log_prob, after, terminated, truncated, running)

    (cart, age, running), t = jax.lax.scan(step, (s.cart, s.age, s.running), jax.random.split(key, horizon))
    ended = t[4] | t[5]
    return s._replace(cart=cart, age=age, running=running), t, (t[6] * ended).sum() / ended.sum()


def advantages(s: State, t: Any) -> tuple[jax.Array, jax.Array]:
    observation, _, _, following, terminated, truncated, _ = t
    deviation = jnp.sqrt(s.targets.variance + 1e-12)
    v = lambda o: mlp(s.value, standard(s.seen, o))[..., 0] * deviation + s.targets.mean  # noqa: E731
    v_t, v_tp1 = v(observation), v(following)
    discount = GAMMA * (1 - terminated)
    delta, trace = 1.0 + discount * v_tp1 - v_t, LAMBDA * (1 - (terminated | truncated))

    def back(a: jax.Array, now: Any) -> tuple[jax.Array, jax.Array]:
        delta, carry = now
        a = delta + carry * a
        return a, a

    _, a_t = jax.lax.scan(back, jnp.zeros(v_t.shape[1]), (delta, discount * trace), reverse=True)
    return a_t, a_t + v_t


def dot(x: Any, y: Any) -> jax.Array:
    return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))


def axpy(a: Any, x: Any, y: Any) -> Any:
    return jax.tree.map(lambda p, q: a * p + q, x, y)


def improve(policy: Any, x: jax.Array, action: jax.Array, log_prob: jax.Array, psi: jax.Array) -> Any:
    """The natural gradient, scaled to the radius."""

    def surrogate(w: Any) -> jax.Array:
        new = jnp.take_along_axis(jax.nn.log_softmax(mlp(w, x)), action[:, None], 1)[:, 0]
        return (jnp.exp(new - log_prob) * psi).mean()

    g = jax.grad(surrogate)(policy)
    logits, tangent = jax.linearize(lambda w: mlp(w, x), policy)
    transpose, p = jax.linear_transpose(tangent, policy), jax.nn.softmax(logits)

    def fisher(v: Any) -> Any:
        y = tangent(v)
        return transpose(p * (y - (p * y).sum(-1, keepdims=True)) / x.shape[0])[0]

    def step(carry: Any, _: None) -> tuple[Any, None]:
        d, r, q, rr = carry
        aq = axpy(DAMPING, q, fisher(q))
        alpha = rr / dot(q, aq)
        r = axpy(-alpha, aq, r)
        return (axpy(alpha, q, d), r, axpy(dot(r, r) / rr, q, r), dot(r, r)), None

    zero = jax.tree.map(jnp.zeros_like, g)
    (d, rest, _, _), _ = jax.lax.scan(step, (zero, g, g, dot(g, g)), None, length=CG)
    curvature = jnp.maximum(dot(d, axpy(-1.0, rest, g)) - DAMPING * dot(d, d), DAMPING * dot(d, d))
    new = axpy(jnp.sqrt(2 * RADIUS / curvature), d, policy)
    old, fresh = jax.nn.log_softmax(logits), jax.nn.log_softmax(mlp(new, x))
    kl = (jnp.exp(old) * (old - fresh)).sum(-1).mean()
    return new, kl


def fit(s: State, x: jax.Array, target: jax.Array, key: jax.Array) -> State:
    """Five epochs of Adam in eight minibatches, on standardised targets."""
    targets = take_in(s.targets, target)
    z, size = (target - targets.mean) / jnp.sqrt(targets.variance + 1e-12), x.shape[0] // MINIBATCHES

    def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
        w, (count, mean, square) = carry
        slope = jax.grad(lambda w: 0.5 * ((mlp(w, x[rows])[:, 0] - z[rows]) ** 2).mean())(w)
        count = count + 1
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, slope)
        square = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, square, slope)
        rate = RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        return (jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-7), w, mean, square), (count, mean, square)), None

    orders = jax.vmap(lambda k: jax.random.permutation(k, x.shape[0]))(jax.random.split(key, EPOCHS))
    rows = orders[:, : size * MINIBATCHES].reshape(EPOCHS * MINIBATCHES, size)
    (value, adam), _ = jax.lax.scan(step, (s.value, s.adam), rows)
    return s._replace(value=value, adam=adam, targets=targets)


def iterate(s: State, key: jax.Array, horizon: int) -> tuple[State, dict[str, jax.Array]]:
    keys = jax.random.split(key, 2)
    s, t, mean_return = collect(s, keys[0], horizon)
    psi, target = advantages(s, t)
    flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    x = standard(s.seen, flat(t[0]))
    policy, kl = improve(s.policy, x, flat(t[1]), flat(t[2]), flat(psi))
    s = fit(s, x, flat(target), keys[1])
    return s._replace(policy=policy, seen=take_in(s.seen, flat(t[0]))), {"return_mean": mean_return, "kl": kl}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("envs", 64), ("horizon", 128), ("iterations", 40), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    key, program = jax.random.key(a.seed), jax.jit(iterate, static_argnums=2, donate_argnums=0)
    s, seconds, rows = start(key, a.envs), [], []
    for i in range(a.iterations):
        begun = time.perf_counter()
        s, row = program(s, jax.random.fold_in(key, i), a.horizon)
        rows.append({name: float(x) for name, x in row.items()})
        seconds.append(time.perf_counter() - begun)
    parameters = sum(x.size for x in jax.tree.leaves((s.policy, s.value)))
    returns = [row["return_mean"] for row in rows]
    print(json.dumps({"first": seconds[0], "seconds": seconds[1:], "parameters": parameters, "returns": returns, "kl": rows[-1]["kl"]}))


if __name__ == "__main__":
    main()
