"""How an update of npg grows with its batch, its network and its conjugate-gradient iterations: make growth [ARGS="--only=samples"]

Each size is measured in a process of its own: a batch of in-graph CartPole is collected, the update is made once to compile it, and then
timed. What is divided by is what the work is proportional to: samples; samples times parameters; and for the iterations, of which each adds
one Fisher-vector product, the time they add. Memory is what the update takes at its peak on top of what the process held with the
batch collected. Writes docs/growth.json and docs/growth.png. Let nothing else run meanwhile.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from run import configure, quiet  # noqa: E402
from tfpg.files import write_text  # noqa: E402

KINDS = {
    "samples": [(envs, "64,64", 10) for envs in (64, 256, 1024, 4096, 16384, 32768)],
    "parameters": [(64, width, 10) for width in ("64,64", "256,256", "512,512", "1024,1024", "2200,2200")],
    "iterations": [(64, "64,64", iterations) for iterations in (5, 10, 20, 50)],
}
HORIZON = 128
LONG = 10.0  # seconds of an update that is timed twice only
ONLY = flags.DEFINE_list("only", list(KINDS), f"what grows: {', '.join(KINDS)}")
CHILD = flags.DEFINE_list("child", [], "envs,iterations,widths of one measurement, made in this process")


def resident(field: str) -> float:
    """MB of this process, from Linux: VmRSS is now, VmHWM the most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1e3


def measure(envs: int, iterations: int, widths: list[str]) -> dict[str, Any]:
    """Seconds and memory of the update of one size."""
    with quiet():
        import tensorflow as tf

        from tfpg import acting, build, engines, learner, rollout, update
    config = configure(
        [f"--envs={envs}", f"--horizon={HORIZON}", f"--hidden={','.join(widths)}", f"--cg_iterations={iterations}", "--damping=1e-5"]
    )
    made, piece, seed = build.setup(config).learner, engines.compiler(config), tf.constant([1, 2])
    environment, state = engines.open_graph(config), learner.initial_state(made, seed)
    collect, improve = piece(rollout.make_collect(environment, made, envs, HORIZON)), acting.direct(update.make_update(made, piece))
    trajectory = collect(state, rollout.start(environment, made, envs, seed), seed)[1]
    wait = lambda nest: [leaf.numpy() for leaf in tf.nest.flatten(nest)]  # noqa: E731
    batch = sum(leaf.nbytes for leaf in wait(trajectory)) / 1e6
    held, spent = resident("VmRSS"), []
    wait(improve(state, trajectory, seed, tf.constant(1.0))[0].policy)
    while len(spent) < (2 if spent and spent[0] > LONG else 9):
        begun = time.perf_counter()
        wait(improve(state, trajectory, seed, tf.constant(1.0))[0].policy)
        spent.append(time.perf_counter() - begun)
    parameters = sum(leaf.shape.num_elements() for leaf in tf.nest.flatten(state.policy))
    peak = max(resident("VmHWM"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    sizes = {"samples": envs * HORIZON, "parameters": parameters, "iterations": iterations}
    return {**sizes, "seconds": statistics.median(spent), "batch_mb": batch, "update_mb": peak - held}


def unit(kind: str, row: dict[str, Any], first: dict[str, Any]) -> float:
    """Nanoseconds per unit of what grows; of iterations, those that come on top of the first row's."""
    if kind == "iterations":
        return 1e9 * (row["seconds"] - first["seconds"]) / max(1, row["iterations"] - first["iterations"]) / row["samples"]
    return 1e9 * row["seconds"] / row["samples"] / (row["parameters"] if kind == "parameters" else 1)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """All measurements, a line each."""
    lines = [
        f"{'grows':<11} {'samples':>10} {'parameters':>10} {'CG':>3} {'seconds':>9} {'ns per unit':>12} {'batch MB':>9} {'update MB':>10}"
    ]
    for kind, rows in found.items():
        for row in rows:
            each = f"{unit(kind, row, rows[0]):,.3g}" if kind != "iterations" or row is not rows[0] else "-"
            sizes = f"{row['samples']:>10,} {row['parameters']:>10,} {row['iterations']:>3}"
            lines.append(f"{kind:<11} {sizes} {row['seconds']:>9.3f} {each:>12} {row['batch_mb']:>9.1f} {row['update_mb']:>10.0f}")
    return "\n".join(lines)


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Seconds against each size, with the line of proportion through the first, and the memory of the update."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, rows) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        x, y = [row[kind] for row in rows], [row["seconds"] for row in rows]
        axes.loglog(x, y, "o-", label="update, s")
        axes.loglog(x, [y[0] * each / x[0] for each in x], ":", color="grey", label="in proportion")
        axes.loglog(x, [row["update_mb"] / 1e3 for row in rows], "s--", lw=1, ms=4, label="its memory, GB")
        axes.set(title=f"{kind} grow", xlabel=kind)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main(_: list[str]) -> None:
    if CHILD.value:
        envs, iterations, *widths = CHILD.value
        print(json.dumps(measure(int(envs), int(iterations), widths)))
        return
    kept = ROOT / "docs" / "growth.json"
    found: dict[str, list[dict[str, Any]]] = json.loads(kept.read_text()) if kept.exists() else {}
    for kind in ONLY.value:
        found[kind] = []
        for envs, widths, iterations in KINDS[kind]:
            command = [sys.executable, __file__, f"--child={envs},{iterations},{widths}"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
            print(table({kind: found[kind]}).splitlines()[-1], flush=True)
    found = {kind: found[kind] for kind in KINDS if kind in found}
    write_text(kept, json.dumps(found, indent=1) + "\n")
    draw(found, kept.with_suffix(".png"))
    print(table(found))


if __name__ == "__main__":
    app.run(main)
