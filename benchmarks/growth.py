"""How an update of npg grows with its batch, its network and its conjugate-gradient iterations: make growth [ARGS="--only=samples"]

Each size is measured by `side.py` in processes of its own: some of a batch of in-graph CartPole is made, the update of a batch of copies of
it is made once to compile it, and then timed. All sizes of a kind take turns, ROUNDS times (those that differ in iterations more often, in
one process), and medians count: a machine's speed changes meanwhile. What is divided by is what the work is proportional to: samples;
samples times multiplications, one for each parameter, and for each hidden unit as many as passes over its numbers take (PASS);
and for the iterations, of which each adds one Fisher-vector product, the time they add. Memory is what an update takes at its peak on top
of what the process holds before it and of the batch (what was collected, and of each sample its advantage and what the critic is fitted
to), measured once, apart, with an allocator that gives back what is free. Writes docs/growth.json and docs/growth.png. Let nothing else run
meanwhile.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tfpg.files import write_text  # noqa: E402

Size = tuple[int, str, int]
KINDS: dict[str, list[Size]] = {
    "samples": [(envs, "64,64", 10) for envs in (64, 256, 1024, 4096, 16384, 32768)],
    "parameters": [(64, width, 10) for width in ("64,64", "256,256", "512,512", "1024,1024", "2200,2200")],
    "iterations": [(512, "64,64", iterations) for iterations in (5, 10, 20, 50)],
}
HORIZON, ROUNDS = 128, 3
PASS = 50
GIVING_BACK = {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}
ONLY = flags.DEFINE_list("only", list(KINDS), f"what grows: {', '.join(KINDS)}")


def side(work: str, repeats: int, envs: int, widths: str, *more: str, memory: bool = False) -> dict[str, Any]:
    """A measurement in a process of its own. The damping is so small that conjugate gradient does not end before its time."""
    flags_ = [f"--envs={envs}", f"--horizon={HORIZON}", f"--hidden={widths}", "--damping=1e-5"]
    command = [sys.executable, "benchmarks/side.py", work, str(repeats), *more, *flags_]
    env = {**os.environ, **(GIVING_BACK if memory else {})}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def spent(envs: int, widths: str, iterations: int) -> float:
    """Seconds of the update of one size."""
    width = int(widths.split(",", maxsplit=1)[0])
    repeats = max(2, min(21, 65_536 * 512 // (envs * HORIZON * width)))
    found = statistics.median(side("update", repeats, envs, widths, f"--cg_iterations={iterations}")["seconds"])
    print(f"{envs * HORIZON:,} samples, {widths}, {iterations} iterations: {found:.3f} s", flush=True)
    return found


def again_and_again(sizes: list[Size]) -> list[list[float]]:
    """Seconds of each size in ROUNDS turns. Those that differ in iterations take theirs in one process, where they are more alike."""
    if len({size[:2] for size in sizes}) == 1:
        found = side("turns", 7 * ROUNDS, *sizes[0][:2], ",".join(str(k) for *_, k in sizes))
        return [found[str(k)] for *_, k in sizes]
    rounds = [[spent(*size) for size in sizes] for _ in range(ROUNDS)]
    return [list(each) for each in zip(*rounds, strict=True)]


def row(size: Size, rounds: list[float]) -> dict[str, Any]:
    """What was measured of one size, and its memory."""
    envs, widths, iterations = size
    known = {"samples": envs * HORIZON, "iterations": iterations, "hidden": sum(map(int, widths.split(",")))}
    found = side("update", 0, envs, widths, f"--cg_iterations={iterations}", memory=True)
    return {**found, **known, "seconds": statistics.median(rounds), "rounds": rounds}


def unit(kind: str, row: dict[str, Any], first: dict[str, Any]) -> float:
    """Nanoseconds per unit of work; of iterations, those that come on top of the first row's, turn by turn."""
    if kind == "iterations":
        more = statistics.median(a - b for a, b in zip(row["rounds"], first["rounds"], strict=True))
        return 1e9 * more / max(1, row["iterations"] - first["iterations"]) / row["samples"]
    work = row["parameters"] + PASS * row["hidden"]
    return 1e9 * row["seconds"] / row["samples"] / (work if kind == "parameters" else 1)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """All measurements, a line each."""
    lines = [
        f"{'grows':<11} {'samples':>10} {'parameters':>10} {'CG':>3} {'seconds':>9} {'ns per unit':>12} {'batch MB':>9} {'beyond MB':>10}"
    ]
    for kind, rows in found.items():
        for row in rows:
            each = f"{unit(kind, row, rows[0]):,.3g}" if kind != "iterations" or row is not rows[0] else "-"
            sizes = f"{row['samples']:>10,} {row['parameters']:>10,} {row['iterations']:>3}"
            lines.append(f"{kind:<11} {sizes} {row['seconds']:>9.3f} {each:>12} {row['batch_mb']:>9.1f} {row['update_mb']:>10.0f}")
    return "\n".join(lines)


def told(value: float) -> str:
    """A size in a few signs: 131k, 4.2M."""
    return next(f"{value / of:.3g}{sign}" for of, sign in ((1e6, "M"), (1e3, "k"), (1, "")) if value >= of)


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Seconds against each size, with the line of proportion through the first, and the memory of the update beyond the batch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, rows) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        x, y = [row[kind] for row in rows], [row["seconds"] for row in rows]
        axes.loglog(x, y, "o-", label="update, s")
        axes.loglog(x, [y[0] * each / x[0] for each in x], ":", color="grey", label="in proportion")
        axes.loglog(x, [row["update_mb"] / 1e3 for row in rows], "s--", lw=1, ms=4, label="memory beyond the batch, GB")
        axes.set(title=f"{kind} grow", xlabel=kind)
        axes.set_xticks(x, [told(value) for value in x], rotation=30, fontsize=8)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main(_: list[str]) -> None:
    kept = ROOT / "docs" / "growth.json"
    found: dict[str, list[dict[str, Any]]] = json.loads(kept.read_text()) if kept.exists() else {}
    for kind in ONLY.value:
        print(f"{kind} ..", flush=True)
        found[kind] = [row(*each) for each in zip(KINDS[kind], again_and_again(KINDS[kind]), strict=True)]
    found = {kind: found[kind] for kind in KINDS if kind in found}
    write_text(kept, json.dumps(found, indent=1) + "\n")
    draw(found, kept.with_suffix(".png"))
    print(table(found))


if __name__ == "__main__":
    app.run(main)
