"""What a person sees: progress while it works, the learning curve, and a summary to read aloud."""

import math
import sys
import time
from pathlib import Path
from typing import Any

from tfpg import statistics
from tfpg.files import named
from tfpg.metrics import Row

HEADER = f"{'steps':>10} {'episodes':>9} {'return':>9} {'KL / radius':>15} {'entropy':>8} {'expl.var':>8} {'steps/s':>9} {'left':>8}"
PLAIN_LINES = 20  # rows of a run whose output is no terminal
LIVE_ROWS = 10  # rows that stay on the screen of a live run


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = int(seconds + 0.5)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def cell(value: Any, width: int, digits: int) -> str:
    """A number right-aligned in `width`, or a dash."""
    missing = value is None or not math.isfinite(value)
    return f"{'-' if missing else f'{value:,.{digits}f}':>{width}}"


class Progress:
    """A table that grows as runs do: live (the last line rewrites itself) on a terminal, plain lines elsewhere, or nothing.

    Each of `runs` has its share of the lines, a last one of its own, and its seed before them where there are several.
    """

    def __init__(self, mode: str, total_steps: int, runs: int = 1) -> None:
        terminal = sys.stdout.isatty()
        self.mode = ("live" if terminal else "plain") if mode == "auto" else mode
        self.total, self.clear = total_steps, "\r\033[K" if self.mode == "live" else ""
        self.stays = max(1, (LIVE_ROWS if self.mode == "live" else PLAIN_LINES) // runs)
        self.label = (lambda name: f"{name:>6} ") if runs > 1 else lambda _: ""

    def begin(self) -> None:
        """The head of the table."""
        self.say(self.label("seed") + HEADER)
        if self.mode == "live":
            self.show("  compiling, which takes a few seconds ...")

    def show(self, text: str) -> None:
        """Prints what stays until something else is printed. In one piece, as runs side by side need it."""
        print(self.clear + text, end="", flush=True)

    def say(self, sentence: str) -> None:
        """Prints a sentence on a line of its own."""
        if self.mode != "none":
            self.show(f"{sentence}\n")


class Lines:
    """The lines of one run in the table. The return shown is that of the last iteration in which an episode finished."""

    def __init__(self, table: Progress, seed: int) -> None:
        self.table, self.label = table, table.label(seed)
        self.returned: float | None = None
        self.first, self.shown, self.started, self.drawn = -1, 0, 0.0, 0.0

    def _line(self, row: Row) -> str:
        elapsed, done = time.monotonic() - self.started, row["steps"] - self.first
        left = duration(elapsed * max(0, self.table.total - row["steps"]) / done) if done > 0 else "-"
        kl = cell(row["kl"], 0, 4) + ("" if row["kl_radius"] is None else f" / {row['kl_radius']:.4f}")
        numbers = f"{row['steps']:>10,} {row['episodes']:>9,} {cell(self.returned, 9, 1)} {kl:>15} {cell(row['entropy'], 8, 3)}"
        return f"{self.label}{numbers} {cell(row['explained_variance'], 8, 2)} {cell(row['steps_per_second'], 9, 0)} {left:>8}"

    def update(self, row: Row) -> None:
        """Shows one row of metrics, when it is time to."""
        if row["return_mean"] is not None:
            self.returned = row["return_mean"]
        if self.first < 0:
            self.first, self.started = row["steps"], time.monotonic()
        due = row["steps"] * self.table.stays // self.table.total
        if due > self.shown or row["steps"] >= self.table.total:
            self.shown = due
            self.table.say(self._line(row))
        elif self.table.mode == "live" and time.monotonic() - self.drawn > 0.1:
            self.drawn = time.monotonic()
            self.table.show(self._line(row))


def learning_curve(path: Path, rows: list[Row], title: str) -> None:
    """Draws training return (and evaluations, where there are some) against environment steps, as a PNG.

    Raises: OSError if it cannot be written.
    """
    figure, axes = _canvas(title)
    seen = [row for row in rows if row["return_mean"] is not None]
    marker = "o" if len(seen) < 3 else None
    axes.fill_between([r["steps"] for r in seen], [r["return_min"] for r in seen], [r["return_mean"] for r in seen], alpha=0.15, lw=0)
    axes.plot(
        [r["steps"] for r in seen],
        [r["return_mean"] for r in seen],
        marker=marker,
        label="training: mean (shade: down to the worst)",
    )
    judged = [row for row in rows if row["eval_return"] is not None]
    if judged:
        axes.plot([r["steps"] for r in judged], [r["eval_return"] for r in judged], "o-", label="greedy evaluation")
    axes.legend(frameon=False, loc="best")
    _save(figure, path)


def common_learning_curve(path: Path, runs: list[list[Row]], title: str) -> None:
    """Draws the interquartile mean over runs of their training return, and its 95 % band, as a PNG. Raises: OSError."""
    figure, axes = _canvas(title)
    curves = [{name: [row[name] for row in rows] for name in ("steps", "return_mean")} for rows in runs]
    found = statistics.common_curve(curves)
    if found:
        grid, returns = found
        axes.plot(grid, returns.T, color="C0", alpha=0.2, lw=0.6)
        axes.fill_between(grid, *statistics.band(returns), color="C0", alpha=0.25, lw=0)
        axes.plot(grid, statistics.interquartile_mean(returns), color="C0", label="training: interquartile mean (shade: 95 % band)")
        axes.legend(frameon=False, loc="best")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with named(path):
        figure.savefig(path, dpi=120)


def _canvas(title: str) -> tuple[Any, Any]:
    """An empty figure and its axes, return against steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(7, 4))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.12, 0.12, 0.86, 0.8))
    axes.set(title=title, xlabel="environment steps", ylabel="return per episode")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return figure, axes


def judgement(judged: dict[str, Any]) -> str:
    """An evaluation in one sentence."""
    return (
        f"Over {judged['episodes']:,} greedy episodes it returns {judged['mean']:,.1f} on average "
        f"(standard error {judged['std_error']:.1f}, worst {judged['min']:,.1f}, best {judged['max']:,.1f})."
    )


def read_aloud(summary: dict[str, Any], directory: Path) -> str:
    """The result of a run in sentences."""
    then = f", as it was after {summary['policy_steps']:,} steps" if summary["policy_steps"] != summary["steps"] else ""
    return (
        f"{summary['algo']} learned {summary['env']} from {summary['steps']:,} steps ({summary['episodes']:,} episodes) "
        f"in {duration(summary['wall_seconds'])}.\n{judgement(summary['evaluation'])}\n"
        f"The policy is in {directory / summary['policy']}{then}, the learning curve in {directory / 'learning_curve.png'}."
    )


def read_all_aloud(summary: dict[str, Any], directory: Path) -> str:
    """The result of runs that differ in their seed alone, in sentences."""
    judged = summary["evaluation"]
    low, high = judged["band"]
    return (
        f"{summary['algo']} learned {summary['env']} with {len(summary['seeds'])} seeds, {summary['steps']:,} steps in all; "
        f"their times of training add up to {duration(summary['wall_seconds'])}.\n"
        f"The greedy policies return {judged['interquartile_mean']:,.1f}, the interquartile mean "
        f"over seeds (95 % band {low:,.1f} to {high:,.1f}); seed {judged['worst_seed']} returns least, {judged['worst']:,.1f}.\n"
        f"Each run is in {directory}/seed<K>, their learning curve in {directory / 'learning_curve.png'}."
    )
