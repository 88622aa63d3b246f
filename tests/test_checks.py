"""The shape checks speak plainly, and the shared decorator traces once."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import checks


@pytest.mark.parametrize(
    ("first", "second"), [((5,), (5, 1)), ((5, 1), (5,)), ((5,), (4,)), ((5,), ()), ((5, 3), (3, 5)), ((5, 3), (1, 3)), ((5, None), (4, 3))]
)
def test_two_shapes_are_refused_by_name(first, second):
    message = rf"reward has shape {tf.TensorShape(first)} but value has shape {tf.TensorShape(second)}: they must be equal"
    with pytest.raises(ValueError) as error:  # noqa: PT011
        checks.same_shape(reward=tf.TensorSpec(first), value=tf.TensorSpec(second))
    assert message in str(error.value)


@pytest.mark.parametrize("odd", [1, 2])
def test_every_argument_is_compared(odd):
    tensors = {name: tf.zeros([5, 1] if k == odd else [5]) for k, name in enumerate(("r_t", "v_t", "mask_t"))}
    with pytest.raises(ValueError, match=rf"r_t has shape \(5,\) but {list(tensors)[odd]} has shape \(5, 1\)"):
        checks.same_shape(**tensors)


def test_equal_and_unknown_dimensions_agree():
    checks.same_shape(x=tf.zeros([5, 3]))
    checks.same_shape(x=tf.zeros([5, 3]), y=tf.ones([5, 3], tf.bool), z=tf.zeros([5, 3], tf.int32))
    checks.same_shape(x=tf.TensorSpec([None, 3]), y=tf.TensorSpec([5, 3]), z=tf.TensorSpec([5, None]))


def test_too_few_dimensions_are_refused_by_name():
    checks.rank(2, x=tf.zeros([5, 3]), y=tf.zeros([5, 3, 1]), unknown=tf.TensorSpec(None))
    checks.rank(0, x=tf.constant(1.0))
    with pytest.raises(ValueError, match=r"mask_t has shape \(5,\): at least 2 dimension"):
        checks.rank(2, x=tf.zeros([5, 3]), mask_t=tf.zeros([5]))


def test_named_axes_bind_their_sizes():
    checks.axes(mu=(tf.zeros([3]), "S"), transition=(tf.zeros([3, 2, 3]), "S A S"))
    checks.axes(logits=(tf.zeros([5, 6, 2]), "... K"), action=(tf.zeros([5, 6]), "..."))
    checks.axes(logits=(tf.zeros([2]), "... K"), action=(tf.zeros([]), "..."))
    checks.axes(x=(tf.TensorSpec([None, 3]), "T N"), y=(tf.TensorSpec([7, None]), "T N"), z=(tf.TensorSpec([7, 3]), "T N"))
    checks.axes(x=(tf.TensorSpec(None), "T N"), y=(tf.TensorSpec([7, 3]), "T N"))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (((3,), "S"), ((4, 2), "S A"), r"y has shape \(4, 2\) but x has shape \(3,\): axis S of \[S, A\] must be 3"),
        (((3,), "S"), ((3, 1), "S"), r"y has shape \(3, 1\), but its axes are \[S\]: nothing is broadcast"),
        (((3,), "S"), ((), "S"), r"y has shape \(\), but its axes are \[S\]"),
        (((3,), "S"), ((3, 4), "S S"), r"y has shape \(3, 4\) but x has shape \(3,\): axis S"),
        (((5, 2), "... K"), ((5, 1), "..."), r"y has shape \(5, 1\) but x has shape \(5, 2\): axis \.\.\. of"),
        (((5, 2), "... K"), ((4, 2), "... K"), r"y has shape \(4, 2\) but x has shape \(5, 2\): axis \.\.\. of"),
        (((5, 2), "... K"), ((), "... K"), r"y has shape \(\), but its axes are \[\.\.\., K\]"),
        (((None,), "S"), ((3, 4), "S S"), r"y has shape \(3, 4\) but its axes differ: axis S of \[S, S\] must be 3"),
    ],
)
def test_axes_that_do_not_fit_are_refused_by_name(first, second, message):
    x, y = ((tf.TensorSpec(shape), spec) for shape, spec in (first, second))
    with pytest.raises(ValueError, match=message):
        checks.axes(x=x, y=y)


def test_one_argument_may_contradict_itself():
    with pytest.raises(ValueError, match=r"chain has shape \(3, 4\) but its axes differ: axis S of \[S, S\] must be 3"):
        checks.axes(chain=(tf.zeros([3, 4]), "S S"))


def test_an_unknown_size_is_learned_from_the_first_that_knows_it():
    x, y, z = (tf.TensorSpec([n]) for n in (None, 3, 4))
    with pytest.raises(ValueError, match=r"z has shape \(4,\)"):
        checks.axes(x=(x, "N"), y=(y, "N"), z=(z, "N"))


def test_checks_hold_while_compiling(mode):
    def product(x, y):
        checks.same_shape(x=x, y=y)
        return x * y

    assert mode(product)(tf.ones([3]), tf.ones([3])).shape == (3,)
    with pytest.raises(ValueError, match=r"x has shape \(3,\) but y has shape \(3, 1\)"):
        mode(product)(tf.ones([3]), tf.ones([3, 1]))


def received():
    """A component, and what it was given at each trace."""
    seen = []

    @checks.component
    def function(x, a, b=0.5, n: int = 2):
        seen.append((x, a, b, n))
        return tf.identity(x)

    return function, seen


def is_tensor(x, dtype):
    return tf.is_tensor(x) and x.dtype == dtype


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_numbers_take_the_type_of_the_first_floating_argument_or_int32_where_the_signature_says_so(dtype):
    function, seen = received()
    function(tf.ones([2], dtype), 0.25, b=3, n=4)
    _, a, b, n = seen[0]
    assert is_tensor(a, dtype)
    assert is_tensor(b, dtype)
    assert is_tensor(n, "int32")
    function(x=tf.constant([1, 2]), a=np.ones(2, dtype), b=0.25)
    assert is_tensor(seen[1][2], dtype)


def test_arrays_and_lists_become_tensors_and_lists_of_reals_take_the_type_of_the_first_floating_array():
    function, seen = received()
    function([1.0, 2.0], [[1, 2]], b=np.ones(2))
    function([1.0, 2.0], [True])
    assert [is_tensor(x, dtype) for x, dtype in zip(seen[0][:3], ("float64", "int32", "float64"), strict=True)] == [True] * 3
    assert [is_tensor(x, dtype) for x, dtype in zip(seen[1][:2], ("float32", "bool"), strict=True)] == [True] * 2


def test_inside_another_program_a_component_is_part_of_it():
    """No nested function, so that derivatives of its loops compile."""
    function, _ = received()
    program = tf.function(lambda x: function(x, 0.5)).get_concrete_function(tf.ones([2]))
    assert not any("PartitionedCall" in node.op for node in program.graph.as_graph_def().node)


def test_every_pair_of_shapes_is_compared():
    unknown = tf.TensorSpec([None], tf.float32)
    with pytest.raises(ValueError, match=r"b has shape \(3,\) but c has shape \(4,\)"):
        checks.same_shape(a=unknown, b=tf.ones([3]), c=tf.ones([4]))
    checks.same_shape(a=tf.TensorSpec(None, tf.float32), b=tf.ones([3]))


def test_floats_are_float32_where_nothing_else_is_floating():
    function, seen = received()
    function(tf.constant([1, 2]), 0.25, b=np.array([True]))
    assert is_tensor(seen[0][1], "float32")


def test_strings_and_booleans_stay_python():
    function, seen = received()
    function(tf.ones([2]), "step", b=True)
    assert seen[0][1:3] == ("step", True)
    assert not tf.is_tensor(seen[0][2])


def test_a_new_number_adds_no_trace_and_a_new_string_or_shape_does():
    function, seen = received()
    counts = []
    for x, a, b in [([1.0], 0.1, 2), ([3.0], 0.7, 5), ([3.0], "traj", 5), ([3.0], "step", 5), ([3.0, 4.0], "step", 5)]:
        np.testing.assert_array_equal(function(tf.constant(x), a, b), x)
        counts.append(function.traced.experimental_get_tracing_count())
    assert counts == [1, 1, 2, 3, 4]
    assert len(seen) == 4


def test_the_value_of_a_number_is_used_and_not_the_one_traced():
    power = checks.component(lambda x, k: x * tf.cast(k, x.dtype))
    assert [float(power(tf.constant(2.0), k)) for k in (3, 4)] == [6.0, 8.0]
    assert [float(power(tf.constant(2.0), k)) for k in (0.25, 0.75)] == [0.5, 1.5]


def test_a_component_keeps_its_name_its_words_and_the_function_below():
    def double(x):
        """2 x."""
        return 2 * x

    function = checks.component(double)
    assert (function.__name__, function.__doc__) == ("double", "2 x.")
    assert function.python_function is double


def test_python_control_flow_is_left_alone():
    @checks.component
    def branch(x):
        return x if x > 0 else -x

    with pytest.raises(tf.errors.OperatorNotAllowedInGraphError):
        branch(tf.constant(1.0))
