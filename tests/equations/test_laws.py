"""Laws that every component obeys, asserted over all of them: see `cases`."""

import inspect
import itertools

import numpy as np
import pytest
import tensorflow as tf
from arguments import SIZES
from cases import CASES, COMPONENTS, arguments_of, axes_of, is_float, padded, padding, program, result_axes, tensors, values

from tfpg import checks

# The equations of all components.
# fmt: off
pytestmark = pytest.mark.equation(
    "PG-01", "PG-02", "PG-03", "PG-04", "PG-05", "PG-06", "PG-07", "PG-08", "PG-09", "PG-10", "PG-11", "PG-12", "PG-13", "PG-14",
    "PG-15", "PG-16", "PG-17", "PG-18", "PG-19", "PG-20", "PG-21", "PG-22", "PG-23", "PG-24", "PG-25", "PG-27", "PG-28", "PG-29",
    "PG-30", "PG-32", "PG-33", "PG-34", "PG-35", "PG-36", "PG-37", "PG-38", "PG-40", "PG-41", "PG-42", "PG-43", "PG-44", "PG-45",
    "PG-46", "PG-47", "PG-48", "PG-49", "PG-50", "PG-51", "PG-55", "PG-56", "PG-57", "PG-58", "PG-59", "PG-60", "PG-61", "PG-62",
    "PG-63", "PG-64", "PG-65", "PG-67", "PG-70", "PG-71", "PG-72", "PG-73", "PG-74", "PG-75", "PG-76", "PG-77", "PG-78", "PG-79",
    "PG-80", "PG-81", "PG-82", "PG-83", "PG-84", "PG-85", "PG-90", "PG-91", "PG-92", "PG-93", "PG-100", "PG-102", "PG-103", "PG-104",
    "PG-105", "PG-106", "PG-107", "PG-108", "PG-120", "PG-123", "PG-128", "PG-129", "PG-130", "PG-131", "PG-132", "PG-133", "PG-136",
)
# fmt: on
every_component = pytest.mark.parametrize("name", CASES)


def close(actual, expected, tolerance, message=""):
    """Equal up to round-off of the largest entry."""
    scale = np.abs(expected).max(initial=0) if is_float(expected) else 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale + 1e-300, err_msg=message)


def test_every_component_has_a_case():
    assert set(COMPONENTS) == set(CASES)
    assert len(COMPONENTS) > 140


@every_component
def test_results_have_their_axes(name):
    results = values(name, arguments_of(name))
    named = [{(axis, size) for axis, size in zip(axes, x.shape, strict=True)} for axes, x in zip(result_axes(name), results, strict=True)]
    assert all(SIZES.get(axis, size) == size for pairs in named for axis, size in pairs)


# Round-off: sums of fewer than a hundred terms, and solutions of small systems, lose two digits of sixteen at most; float32 one of seven.


@every_component
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_plain_python_graph_and_xla_agree_in_value_and_gradient(name, mode):
    given = arguments_of(name)
    (results, slopes, narrow), (expected, defined, plain) = program(name, mode)(given), program(name, "python")(given)
    for x, y in zip(results, expected, strict=True):
        assert x.dtype == y.dtype
        close(x, y, 1e-13 * CASES[name].loose)
    for key, slope in slopes.items():
        assert np.isfinite(slope).all(), key
        close(slope, defined[key], 2e-13 * CASES[name].loose, key)
    for x, y, z in zip(narrow, plain, expected, strict=True):
        assert x.dtype == y.dtype == ("float32" if is_float(z) else z.dtype)
        close(x, z, 2e-6)
        close(y, z, 2e-6)


def renumbered(given, seed):
    """Scalars as Python numbers: other ones for another seed."""

    def number(x):
        return float(x) * 0.9**seed if is_float(x) else int(x) + seed

    return {key: x if isinstance(x, str) or np.ndim(x) else number(x) for key, x in given.items()}


@every_component
def test_new_values_and_new_numbers_add_no_trace(name):
    function, counts = COMPONENTS[name], []
    for seed in (0, 1):
        given = renumbered(arguments_of(name, seed=seed), seed)
        result = [np.asarray(x) for x in tf.nest.flatten(function(**given))]
        counts.append(function.traced.experimental_get_tracing_count())
        plain = values(name, {key: np.asarray(x) if isinstance(x, float) else x for key, x in given.items()}, call=function.python_function)
        for x, y in zip(result, plain, strict=True):
            close(x, y, 1e-13 if x.dtype == y.dtype else 1e-6)
    assert counts[0] == counts[1]


def idle_entries(name, given, key):
    """Entries of one argument that change no result, neither by a step up nor by one down."""
    base, x = values(name, given), given[key]
    moves = (0.37, -0.37, 9.1, -9.1) if is_float(x) else (1,)
    idle = np.zeros(x.shape, bool)
    for index in np.ndindex(x.shape):
        changed = (np.array(x) for _ in moves)
        idle[index] = not any(_moved(name, given, base, key, index, y, h) for y, h in zip(changed, moves, strict=True))
    return idle


def _moved(name, given, base, key, index, y, h):
    y[index] = not y[index] if y.dtype == bool else y[index] + h
    results = values(name, {**given, key: y})
    return any(np.shape(a) != np.shape(b) or not np.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(results, base, strict=True))


@every_component
def test_every_entry_matters_but_those_that_must_not(name):
    given = arguments_of(name)
    for key, x in given.items():
        if isinstance(x, str) or (np.ndim(x) and np.issubdtype(x.dtype, np.integer)):  # states and actions that are integers
            continue
        excuse = CASES[name].idle.get(key, lambda _: False)
        if excuse is None:
            continue
        excused = excuse(given)
        np.testing.assert_array_equal(idle_entries(name, given, key), padded(name, given, key) | excused, err_msg=key)


def wrong_shapes(name):
    """(argument, shape) for every way of giving one argument an axis too many, one entry too many, or one entry for many."""
    axes = {key: found for key, found in axes_of(name).items() if found}
    for key, own in axes.items():
        others = [axis for other, found in axes.items() if other != key for axis in found]
        shape = [SIZES[axis] for axis in own]
        if set(own) & set(others):
            yield key, (*shape, 1)
            yield key, (1, *shape)
        for i, axis in enumerate(own):
            if axis in others or own.count(axis) > 1:
                for size in (shape[i] + 1, 1):
                    yield key, (*shape[:i], size, *shape[i + 1 :])


@every_component
def test_wrong_shapes_are_refused_by_name(name):
    given = tensors(arguments_of(name))
    for key, shape in wrong_shapes(name):
        wrong = tf.zeros(shape, given[key].dtype)
        with pytest.raises(ValueError, match="has shape") as error:
            COMPONENTS[name](**{**given, key: wrong})
        message = str(error.value)
        assert str(wrong.shape) in message, key
        others = [f"{other} has shape {x.shape}" for other, x in given.items() if tf.is_tensor(x) and other != key]
        if not name.startswith("psi."):  # which names the parts of its records
            assert f"{key} has shape {wrong.shape}" in message, key
            assert "axes" in message or any(other in message for other in others), key


def annotations(name):
    """What the signature of a component says of each argument."""
    return {key: parameter.annotation for key, parameter in inspect.signature(COMPONENTS[name]).parameters.items()}


@pytest.mark.parametrize("name", [name for name in COMPONENTS if checks.Scalar in annotations(name).values()])
def test_an_array_in_the_place_of_a_number_is_refused(name):
    given = tensors(arguments_of(name))
    for key in [key for key, annotation in annotations(name).items() if annotation is checks.Scalar]:
        with pytest.raises(ValueError, match=rf"^{key} has shape \(2,\): a single number is needed"):
            COMPONENTS[name](**{**given, key: tf.fill([2], given[key])})


def test_single_numbers_are_declared_as_such():
    plain = [(name, key) for name in CASES for key, axes in axes_of(name).items() if not axes and annotations(name)[key] is tf.Tensor]
    assert not [pair for pair in plain if not pair[0].startswith("psi.")]


NEEDS_TWO = {
    "baselines.leave_one_out": r"return_i has shape \(1,\)",
    "baselines.optimal_leave_one_out": r"return_i has shape \(1,\)",
    "baselines.optimal_togo_leave_one_out": r"score_i has shape \(1, 4\)",
    "variance.sampled": r"return_i has shape \(1,\)",
}


@pytest.mark.parametrize("name", NEEDS_TWO)
def test_a_single_sample_is_refused_where_others_are_needed(name):
    with pytest.raises(ValueError, match=rf"^{NEEDS_TWO[name]}: at least two samples are needed"):
        COMPONENTS[name](**tensors(arguments_of(name, {**SIZES, "N": 1, "K": 1})))


MASKED = [name for name in CASES if padding(name, arguments_of(name)) is not None]


@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("name", MASKED)
def test_garbage_on_padding_reaches_neither_value_nor_gradient(name, mode):
    given = arguments_of(name)
    clean, outside = program(name, mode)(given), {key: padded(name, given, key) for key in given}
    assert any(entries.any() for entries in outside.values()) or name in WITHOUT_DATA
    for real, integer in [(np.nan, 2**31 - 1), (np.inf, -(2**31)), (-np.inf, -1)]:
        dirty = {key: np.where(outside[key], real if is_float(x) else integer, x) if outside[key].any() else x for key, x in given.items()}
        dirty = {key: x if isinstance(x, str) else x.astype(given[key].dtype) for key, x in dirty.items()}
        found = program(name, mode)(dirty)
        tf.nest.map_structure(np.testing.assert_array_equal, found, clean)
        for key, slope in found[1].items():
            assert not slope[outside[key]].any(), key


WITHOUT_DATA = ("surrogates.weights", "baselines.every_step")


# A mean without the only number it is the mean of, a deviation from one number, and seven coefficients from one step.
NEED_MORE = (*NEEDS_TWO, "objectives.monte_carlo", "models.linear_model")


@pytest.mark.parametrize("name", [name for name in CASES if name not in NEED_MORE])
def test_one_step_of_one_trajectory_is_a_batch(name):
    sizes = {**SIZES, "T": 1, "N": 1, "J": 1} | ({} if "K" in CASES[name].tied else {"K": 1})
    results = values(name, arguments_of(name, sizes))
    for axes, x in zip(result_axes(name), results, strict=True):
        assert np.isfinite(x).all()
        assert all(sizes.get(axis, size) == size for axis, size in zip(axes, x.shape, strict=True))


def along(axes, x, axis, indices):
    """Entries of an array along every axis of a name."""
    for i, own in enumerate(axes):
        x = np.take(x, indices, axis=i) if own == axis else x
    return x


def chosen(name, axis, indices):
    """One component's arguments, and its results, restricted to entries along an axis."""
    given = arguments_of(name)
    some = {key: along(axes, given[key], axis, indices) for key, axes in axes_of(name).items()}
    return some, [along(axes, x, axis, indices) for axes, x in zip(result_axes(name), values(name, given), strict=True)]


COLUMNWISE = [name for name, case in CASES.items() if "N" in case.results and not case.mixes]


@pytest.mark.parametrize("name", COLUMNWISE)
def test_a_column_alone_gives_its_column_of_the_batch(name):
    for i in range(SIZES["N"]):
        given, expected = chosen(name, "N", [i])
        for x, y in zip(values(name, given), expected, strict=True):
            close(x, y, 1e-13)


@every_component
def test_entries_in_another_order_give_the_results_in_that_order(name):
    axes = set(itertools.chain(*axes_of(name).values())) - {"T", "L"} - set(CASES[name].tied)
    for axis in sorted(axes):
        order = np.roll(np.arange(SIZES[axis]), 1)
        given, expected = chosen(name, axis, order)
        for x, y in zip(values(name, given), expected, strict=True):
            close(x, y, 2e-13, axis)
