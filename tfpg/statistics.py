"""Statistics over runs that differ in their seed alone."""

from typing import Any

import numpy as np

POINTS = 200  # of a curve
RESAMPLES = 2000


def interquartile_mean(x: Any, axis: int = 0) -> Any:
    """Mean of the middle half: a quarter of the weight is cut off at each end, values that lie across a cut count in part.

    IQM = 2 int_{1/4}^{3/4} Q(p) dp, with Q the quantile function of the sample. In units of 1/(4 n) value i of n, sorted, covers
    [4 i, 4 i + 4] and the middle half is [n, 3 n]: the weights are whole numbers, so equal values have exactly themselves as mean.
    """
    ordered = np.moveaxis(np.sort(np.asarray(x, np.float64), axis=axis), axis, -1)
    n = ordered.shape[-1]
    weights = np.diff(np.clip(4 * np.arange(n + 1), n, 3 * n))
    return np.sum(ordered * weights, axis=-1) / (2 * n)


def band(x: Any) -> tuple[Any, Any]:
    """95 % percentile bootstrap band of the interquartile mean over the first axis [n, ...], with the same resamples every time."""
    x = np.asarray(x, np.float64)
    drawn = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.percentile(interquartile_mean(x[drawn], axis=1), [2.5, 97.5], axis=0)
    return low, high


def common_curve(curves: list[dict[str, list]]) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps [G], and the training returns [n, G] of n runs there, interpolated, as far as all of them reach."""
    known = [[(s, r) for s, r in zip(c["steps"], c["return_mean"], strict=True) if r is not None] for c in curves]
    known = [points for points in known if points]
    if not known:
        return None
    last = min(points[-1][0] for points in known)
    grid = np.linspace(min(last, max(points[0][0] for points in known)), last, POINTS)
    return grid, np.stack([np.interp(grid, [s for s, _ in points], [r for _, r in points]) for points in known])
