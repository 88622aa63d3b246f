"""Orders of minibatches: permutations, each as likely as any other, that take no memory."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfpg import minibatches

SEED = tf.constant([5, 6])


def permutations(units, count, seed=SEED):
    """`count` orders of so many units: [count, units]."""
    keys = minibatches.orders(units, count, 2, seed).keys
    run = tf.function(
        lambda: tf.map_fn(lambda key: minibatches.shuffled(tf.range(units), units, key), keys, fn_output_signature=tf.int32),
        jit_compile=True,
    )
    return run().numpy()


def spread(counts):
    """Pearson's chi-squared of equal expectations, in standard deviations from its mean."""
    counts = np.asarray(counts, float)
    expected = counts.mean()
    return (np.sum((counts - expected) ** 2) / expected - (len(counts) - 1)) / np.sqrt(2 * (len(counts) - 1))


@pytest.mark.parametrize("units", [1, 2, 3, 7, 8, 100, 4097, 131_072])
def test_every_unit_has_a_place_of_its_own(units, mode):
    for key in minibatches.orders(units, 2, 2, SEED).keys:
        found = mode(lambda key: minibatches.shuffled(tf.range(units), units, key))(key)
        np.testing.assert_array_equal(np.sort(found), np.arange(units))


def test_each_unit_can_be_asked_by_itself():
    key = minibatches.orders(50, 1, 2, SEED).keys[0]
    whole = minibatches.shuffled(tf.range(50), 50, key).numpy()
    np.testing.assert_array_equal(minibatches.shuffled(tf.constant([[7, 3], [49, 0]]), 50, key), whole[[[7, 3], [49, 0]]])


@pytest.mark.parametrize("units", [2, 3, 4, 5])
def test_every_permutation_is_as_likely(units):
    """All n! of them, over many keys: 24 cells of 1,000 scatter by less than 5 standard deviations of chi-squared."""
    every = list(itertools.permutations(range(units)))
    found = permutations(units, 1000 * len(every))
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == len(every)
    assert spread(counts) < 5


def test_neighbours_do_not_stay_neighbours():
    """pi(1) - pi(0) and pi(2) - 2 pi(1) + pi(0) of 64 units take every value alike, the first but for 0."""
    p = permutations(64, 30_000)
    near = np.bincount((p[:, 1] - p[:, 0]) % 64, minlength=64)
    assert near[0] == 0
    assert spread(near[1:]) < 5
    reference = np.argsort(np.random.default_rng(1).uniform(size=[30_000, 64]), axis=1)
    second = [np.bincount((x[:, 2] - 2 * x[:, 1] + x[:, 0]) % 64, minlength=64) for x in (p, reference)]
    expected = np.mean(second, axis=0)
    chi = np.sum((np.array(second) - expected) ** 2 / expected)
    assert (chi - 63) / np.sqrt(2 * 63) < 5


def test_minibatches_hold_as_many_of_every_kind_as_drawing_does():
    """Of 4,096 units 512 are in the first minibatch; how many of them are multiples of 2, 8 or 64 has the hypergeometric variance."""
    first = np.argsort(permutations(4096, 1500), axis=1)[:, :512]
    for step in (2, 8, 64):
        share = 1 / step
        variance = 512 * share * (1 - share) * (4096 - 512) / 4095
        found = np.sum(first % step == 0, axis=1)
        assert abs(found.mean() - 512 * share) < 4.5 * np.sqrt(variance / 1500)
        assert abs(found.var() / variance - 1) < 5 * np.sqrt(2 / 1500)


def test_passes_have_orders_of_their_own():
    p = permutations(1000, 5)
    for a, b in itertools.combinations(p, 2):
        assert np.sum(a == b) < 10
    assert np.sum(p[0] == permutations(1000, 1, SEED + 1)[0]) < 10


@pytest.mark.parametrize("piece", [None, lambda f: f, tf.function], ids=["at once", "by step", "programs"])
def test_passes_go_through_the_shuffled_units_in_turn(piece, mode):
    """A carry that remembers what it was given: of 11 units in 3 minibatches, 9 in each of 4 passes, in the order of the keys."""
    order = minibatches.orders(11, 4, 3, SEED)

    def step(rows, carry):
        k, seen = carry
        return k + 1, tf.tensor_scatter_nd_update(seen, k[None, None], rows[None])

    _, seen = mode(lambda: minibatches.passes(step, (tf.constant(0), tf.zeros([12, 3], tf.int32)), order, piece))()
    wanted = [minibatches.shuffled(tf.range(9), 11, key).numpy().reshape(3, 3) for key in order.keys]
    np.testing.assert_array_equal(seen, np.concatenate(wanted))
