"""Laws of large batches: thousands of columns or samples are as many calls at once."""

import numpy as np
import pytest
from arguments import SIZES
from cases import CASES, arguments_of, axes_of, result_axes, values
from test_laws import COLUMNWISE, along

# The equations of all components.
# fmt: off
pytestmark = pytest.mark.equation(
    "PG-01", "PG-02", "PG-03", "PG-04", "PG-05", "PG-06", "PG-07", "PG-08", "PG-09", "PG-10", "PG-11", "PG-12", "PG-13", "PG-14",
    "PG-15", "PG-16", "PG-17", "PG-18", "PG-19", "PG-20", "PG-21", "PG-22", "PG-23", "PG-24", "PG-25", "PG-27", "PG-28", "PG-29",
    "PG-30", "PG-32", "PG-33", "PG-34", "PG-35", "PG-36", "PG-37", "PG-38", "PG-40", "PG-41", "PG-42", "PG-43", "PG-44", "PG-45",
    "PG-46", "PG-47", "PG-48", "PG-49", "PG-50", "PG-51", "PG-55", "PG-56", "PG-57", "PG-58", "PG-59", "PG-60", "PG-61", "PG-62",
    "PG-63", "PG-64", "PG-65", "PG-67", "PG-70", "PG-71", "PG-72", "PG-73", "PG-74", "PG-75", "PG-76", "PG-77", "PG-78", "PG-79",
    "PG-80", "PG-81", "PG-82", "PG-83", "PG-84", "PG-85", "PG-90", "PG-91", "PG-92", "PG-93", "PG-100", "PG-102", "PG-103", "PG-104",
    "PG-105", "PG-106", "PG-107", "PG-108", "PG-120", "PG-123", "PG-128", "PG-129", "PG-130", "PG-131", "PG-132", "PG-133",
)
# fmt: on

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
