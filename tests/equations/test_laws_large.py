"""Laws of large batches: thousands of columns or samples are as many calls at once."""

import numpy as np
import pytest
from arguments import SIZES
from cases import CASES, arguments_of, axes_of, result_axes, values
from test_laws import COLUMNWISE, along, pytestmark  # noqa: F401

MANY = 3000
AXES = {name: {axis for axes in axes_of(name).values() for axis in axes} - set(case.tied) for name, case in CASES.items()}


@pytest.mark.parametrize("name", COLUMNWISE)
def test_each_of_many_columns_is_what_it_is_alone(name):
    given = arguments_of(name, {**SIZES, "N": MANY})
    for i in (0, MANY // 3, MANY - 1):
        alone = values(name, {key: along(axes, given[key], "N", [i]) for key, axes in axes_of(name).items()})
        for axes, x, y in zip(result_axes(name), values(name, given), alone, strict=True):
            np.testing.assert_allclose(along(axes, x, "N", [i]), y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in CASES if AXES[name] & {"N", "K"}])
def test_single_precision_keeps_its_digits_over_many_samples(name):
    """Sums of three thousand terms lose a digit or two of seven."""
    samples = "N" if "N" in AXES[name] else "K"
    sizes = {**SIZES, samples: MANY}
    given = arguments_of(name, sizes)
    for axes, x, y in zip(result_axes(name), values(name, given, "float32"), values(name, given), strict=True):
        assert x.shape == y.shape == tuple(sizes.get(axis, size) for axis, size in zip(axes, x.shape, strict=True))
        assert np.isfinite(x).all()
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * np.abs(y).max(initial=1e-30))
