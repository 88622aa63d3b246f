"""How far npg's arithmetic is from what this machine can do: make roofline, after make bench-peers.

A program that does I operations on each byte that it fetches does at most min(peak, I times the rate of memory) in a second (Williams,
Waterman and Patterson 2009). Both roofs are measured here; what was reached is in latest.json. A multiplication and an addition are two.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from absl import app

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.side import seconds  # noqa: E402
from run import quiet  # noqa: E402

SIZES = [4, 64, 64, 2]
PRODUCTS, PASSES = 10, 5  # of conjugate gradient; of the critic
FORWARD = 2 * sum(n * m for n, m in itertools.pairwise(SIZES))
KEPT = 4 * (sum(SIZES[:-1]) + sum(n + 1 for n in SIZES[:-2]) + sum(SIZES[1:-1]) + SIZES[-1] + 1)  # bytes of a sample's factors and weight
# Passes forward that take as much: acting, V twice, the gradient, factors, each F v, gain with KL and entropy, the critic.
OPERATIONS = FORWARD * (1 + 2 + 3 + 2 + 2 * PRODUCTS + 2 + 3 * PASSES)
FETCHED = KEPT * (1 + PRODUCTS) + 4 * (SIZES[0] + 2) * PASSES  # factors written once, read for each product; the critic's batch


class Point(NamedTuple):
    """What a case does, and how fast it did it."""

    case: str
    intensity: float  # operations on each byte
    rate: float  # 1e9 operations per second


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def narrow_products() -> float:
    """GF/s of products of npg's shapes, in cache, on all cores at once, each with a process of its own."""
    calls = [["taskset", "-c", str(core), sys.executable, "benchmarks/side.py", "product", "16384"] for core in cores()]
    running = [subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for call in calls]
    return sum(float(json.loads(process.communicate()[0].splitlines()[-1])["peer"]) for process in running)


def large_products_and_memory() -> tuple[float, float]:
    """GF/s of square products of 2,048 rows, and GB/s of adding up 256 MB, both on all cores."""
    with quiet():
        import tensorflow as tf
    n, x = 2048, tf.random.stateless_normal([2**26], [1, 2])
    square = tf.reshape(x[: n * n], [n, n])
    products = statistics.median(seconds(lambda: tf.matmul(square, square).numpy(), 9))
    return 2 * n**3 / products / 1e9, 4 * 2**26 / statistics.median(seconds(lambda: tf.reduce_sum(x).numpy(), 9)) / 1e9


def points(latest: dict[str, dict[str, Any]]) -> list[Point]:
    """The cases that arithmetic bounds."""
    whole = [Point(name, OPERATIONS / FETCHED, OPERATIONS * latest[name]["ours"] / 1e9) for name in ("npg_small", "npg_large")]
    return [Point("fisher", 2 * FORWARD / KEPT, latest["fisher"]["ours"]), *whole]


def draw(found: list[Point], peak: float, narrow: float, memory: float, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes, x = figure.subplots(), [0.5, 200.0]
    for roof, style, label in ((peak, "-", "products of 2,048 rows"), (narrow, "--", "products of npg's shapes, in cache")):
        axes.loglog([x[0], roof / memory, x[1]], [x[0] * memory, roof, roof], style, color="black", lw=1, label=f"{label}: {roof:.0f} GF/s")
    for point, marker in zip(found, "osD", strict=True):
        axes.loglog(point.intensity, point.rate, marker, label=f"{point.case}: {point.rate:.0f} GF/s")
    axes.set(xlabel="operations on each byte fetched", ylabel="1e9 operations per second", title=f"memory: {memory:.0f} GB/s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main(_: list[str]) -> None:
    found = points(json.loads((ROOT / "benchmarks" / "latest.json").read_text()))
    narrow, (peak, memory) = narrow_products(), large_products_and_memory()
    print(f"{len(cores())} cores, GF/s in products of 2,048 rows: {peak:.0f}, of npg's shapes: {narrow:.0f}; memory, GB/s: {memory:.0f}")
    for point in found:
        roof = min(narrow, point.intensity * memory)
        print(f"{point.case:<10} {point.intensity:5.1f} per byte  {point.rate:6.1f} GF/s, {point.rate / roof:.2f} of {roof:.0f}")
    draw(found, peak, narrow, memory, ROOT / "docs" / "roofline.png")


if __name__ == "__main__":
    app.run(main)
