"""What was learned, by whom and how well: docs/results.md, made from runs.

    python benchmarks/results.py run [--only=GLOB] [--workers=2]    the runs of experiments.toml that are missing
    python benchmarks/results.py page [--check]                     docs/results.md and its pictures; --check says whether they are stale
    python benchmarks/results.py digest [--only=GLOB]               digests of the finished runs, without running any

    experiments.toml + configs/*.flags -> run directories -> digests (committed) -> page

A run is one process of run.py in runs/results/<experiment>/seed<K>, with its output beside it in seed<K>.log. Its digest is made from that
directory alone, and the page from digests alone: it can be made again where the run directories are gone. A run or a digest counts for an
experiment only if its flags are those that the flagfile gives now.
"""

import argparse
import difflib
import fnmatch
import hashlib
import importlib
import inspect
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import run as program  # noqa: E402
from tfpg import workdir  # noqa: E402
from tfpg.config import CARE, PLACES, Config, closest  # noqa: E402
from tfpg.errors import RunFault, UsageError  # noqa: E402
from tfpg.files import numbered, write_text  # noqa: E402
from tfpg.report import duration  # noqa: E402
from tfpg.statistics import POINTS, RESAMPLES, band, common_curve, interquartile_mean  # noqa: E402

TABLE, PAGE, PICTURES = "benchmarks/experiments.toml", "docs/results.md", "docs/results"
DIGESTS, PEERS, RUNS = "docs/results/runs", "docs/results/peers", "runs/results"
WATCHING = (*PLACES, *CARE, "progress", "tensorboard", "checkpoint_every", "device", "jit", "fisher_block")
"""Flags that change neither what is learned, but for rounding, nor how it is judged."""
STALE = "is stale: `make results` writes it anew."
COUNTED = ("skipped", "refused")  # columns of the metrics that count refusals
REQUIRED = ("steps", "episodes", "evaluation", "wall_seconds", "first_iteration_seconds", "steps_per_second", "versions", "device")
OPTIONAL = ("engine", "envs", "horizon", "jit", "threads")


# The experiments.


class Experiment(NamedTuple):
    """One row of the page, as experiments.toml has it; that file says what the fields mean."""

    name: str
    group: str
    flagfile: str
    seeds: list[int]
    claim: str
    bar: float | str | None = None
    bar_kind: str = "iqm"
    direction: str = "up"
    flags: list[str] = []  # noqa: RUF012
    start: float | None = None
    optimum: str | None = None
    within: float | None = None
    peer: dict[str, str] | None = None
    reference: list[dict[str, Any]] = []  # noqa: RUF012
    label: str | None = None
    note: str | None = None


CHOICES = {"bar_kind": ("iqm", "worst", "mean"), "direction": ("up", "down")}


def load(root: Path) -> tuple[list[Experiment], dict[str, str]]:
    """The experiments, and how each source of reference figures measures. Raises: UsageError."""
    table = tomllib.loads((root / TABLE).read_text("utf-8"))
    sources = table.pop("sources", {})
    return [_experiment(name, entry, sources) for name, entry in table.items()], sources


def _experiment(name: str, entry: dict[str, Any], sources: dict[str, str]) -> Experiment:
    """One table of the file, checked."""
    sentences = [] if re.fullmatch(r"\w+", name) else ["is not a name of letters, digits and _."]
    known = Experiment._fields[1:]
    sentences += [f"has {key}, which is unknown.{closest(key, known)}" for key in entry if key not in known]
    sentences += [f"lacks {key}." for key in ("group", "flagfile", "seeds", "claim") if not entry.get(key)]
    for key, allowed in CHOICES.items():
        if entry.get(key, allowed[0]) not in allowed:
            sentences.append(f"has {key} = {entry[key]}: {', '.join(allowed)} are allowed.")
    if not sentences and len(set(entry["seeds"])) < len(entry["seeds"]):
        sentences.append("names a seed twice.")
    if isinstance(entry.get("bar"), str) and (entry["bar"] != "peer" or "peer" not in entry):
        sentences.append(f'has bar = "{entry["bar"]}": a number is allowed, or "peer" where there is a peer.')
    if ("optimum" in entry) != ("within" in entry):
        sentences.append("has one of optimum and within: they go together.")
    if "peer" in entry and set(entry["peer"]) != {"algo", "env"}:
        sentences.append("has a peer that is not { algo, env }.")
    for figure in entry.get("reference", []):
        if set(figure) != {"value", "text", "source"} or figure["source"] not in sources:
            sentences.append(f"has a reference that is not {{ value, text, source }} with a source of [sources]: {figure}.")
    if sentences:
        raise UsageError(f"{TABLE}: [{name}] {sentences[0]}")
    return Experiment(name, **entry)


def chosen(experiments: list[Experiment], only: str) -> list[tuple[Experiment, int]]:
    """Experiments and seeds whose name, or name-seedK, a pattern matches. Raises: UsageError if there is none."""
    named = [(e, seed) for e in experiments for seed in e.seeds]
    found = [(e, seed) for e, seed in named if fnmatch.fnmatch(e.name, only) or fnmatch.fnmatch(f"{e.name}-seed{seed}", only)]
    if not found:
        near = difflib.get_close_matches(only, [e.name for e in experiments], n=1)
        raise UsageError(f"--only={only} matches no experiment of {TABLE}.{f' Did you mean {near[0]}?' if near else ''}")
    return found


# Flags.


def flag_lines(text: str) -> list[str]:
    """The lines of a flagfile that are flags."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith("--")]


def as_table(text: str) -> dict[str, str]:
    """name -> value of a complete flagfile such as run.flags."""
    return dict(line[2:].partition("=")[::2] for line in flag_lines(text))


def expected(root: Path, experiment: Experiment, seed: int) -> dict[str, str] | None:
    """Every flag that a run shall have; None if its flagfile is not there. Raises: UsageError."""
    path = root / "configs" / experiment.flagfile
    if not path.is_file():
        return None
    try:
        config, _ = program.parse([f"--flagfile={path}", *experiment.flags, f"--seed={seed}"])
    except UsageError as error:
        raise UsageError(f"configs/{experiment.flagfile}, as [{experiment.name}] uses it: {error}") from None
    return as_table(workdir.flagfile(config))


def differences(wanted: dict[str, str] | None, found: str) -> list[str]:
    """Flags of a run that are not those wanted. A flag that is younger than the run is taken to have had its default."""
    if wanted is None:
        return ["its flagfile is not there"]
    had = {**as_table(workdir.flagfile(Config())), **as_table(found)}
    names = sorted({*wanted, *had} - set(WATCHING))
    return [f"--{name}={had.get(name)} is not {wanted.get(name)}" for name in names if had.get(name) != wanted.get(name)]


# Digests: what the page needs of a run, a few kB.


def metric_rows(directory: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, whatever its columns; a line that a crash cut short is dropped."""
    rows = []
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def short(value: float | None) -> float | None:
    """Six significant digits."""
    return None if value is None else float(f"{value:.6g}")


def curve(rows: list[dict[str, Any]], points: int = POINTS) -> dict[str, list[float | None]]:
    """At most `points` points: steps at their end, mean return of all episodes that finished since the point before, mean evaluation."""
    parts = [part.tolist() for part in np.array_split(np.arange(len(rows)), min(points, len(rows)))] if rows else []
    finished = np.diff([0, *(row["episodes"] for row in rows)])
    found: dict[str, list[float | None]] = {"steps": [rows[part[-1]]["steps"] for part in parts], "return_mean": [], "eval_return": []}
    for part in parts:
        counted = [(rows[i]["return_mean"], finished[i]) for i in part if rows[i]["return_mean"] is not None]
        total = sum(n for _, n in counted)
        found["return_mean"].append(short(sum(mean * n for mean, n in counted) / total) if total else None)
        judged = [rows[i]["eval_return"] for i in part if rows[i].get("eval_return") is not None]
        found["eval_return"].append(short(statistics.fmean(judged)) if judged else None)
    if not any(value is not None for value in found["eval_return"]):
        del found["eval_return"]
    return found


def digest(directory: Path) -> dict[str, Any]:
    """What the page needs of a finished run, from its directory alone. Raises: RunFault."""
    try:
        summary, rows = json.loads((directory / "summary.json").read_text()), metric_rows(directory)
        content = {name: summary[name] for name in REQUIRED} | {name: summary[name] for name in OPTIONAL if name in summary}
        content["counts"] = {name: int(sum(row.get(name) or 0 for row in rows)) for name in COUNTED if rows and name in rows[0]}
        content["curve"] = curve(rows)
        content["flags"] = "\n".join(flag_lines((directory / "run.flags").read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise RunFault(f"{directory} is not a finished run: {type(error).__name__} {error}.") from None
    if (directory / "untrained.json").exists():
        content["untrained"] = json.loads((directory / "untrained.json").read_text())
    return content


def write_digest(root: Path, name: str, seed: int, content: dict[str, Any]) -> None:
    """One key a line, in one piece."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items()]
    (root / DIGESTS).mkdir(parents=True, exist_ok=True)
    write_text(root / DIGESTS / f"{name}-seed{seed}.json", "{\n" + ",\n".join(lines) + "\n}\n")


def untrained(directory: Path) -> None:
    """Judges the policy that a run began with, which its flags determine, and writes untrained.json into its directory."""
    config = program.configure([f"--flagfile={directory / 'run.flags'}"])
    with program.quiet():
        from tfpg import build, evaluate, train

        parts = build.setup(config)
        judged = evaluate.summary(train.Run(config, directory, parts).judge("result"))
        parts.engine.close()
    write_text(directory / "untrained.json", json.dumps(judged, indent=2, allow_nan=False) + "\n")


# Running what is missing.


class Task(NamedTuple):
    """One run: the experiment, the seed, and the project it belongs to."""

    root: Path
    experiment: Experiment
    seed: int

    @property
    def name(self) -> str:
        return f"{self.experiment.name} seed {self.seed}"

    @property
    def directory(self) -> Path:
        return Path(RUNS, self.experiment.name, f"seed{self.seed}")


def state(task: Task) -> str:
    """'done', 'cut' (it can be resumed), 'new' (nothing was saved). Raises: UsageError if it cannot run, or ran with other flags."""
    directory, wanted = task.root / task.directory, expected(task.root, task.experiment, task.seed)
    if wanted is None:
        raise UsageError(f"configs/{task.experiment.flagfile} is not there.")
    if not (directory / "run.flags").exists():
        return "new"
    other = differences(wanted, (directory / "run.flags").read_text())
    if other:
        raise UsageError(f"{task.directory} was made with other flags ({other[0]}): delete or move it to run anew.")
    if (directory / "summary.json").exists():
        return "done"
    return "cut" if numbered(directory / "checkpoints") else "new"


class Processes:
    """The processes that are running, so that all of them can be asked to stop."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen] = set()
        self.lock, self.stopping = threading.Lock(), False

    def call(self, command: list[str], root: Path, log: Path) -> None:
        """Runs a command, its output appended to a log. Raises: RunFault if it fails, or if another process is at work on this log."""
        import fcntl

        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            # The child holds the lock too, through its standard output: it stays if this process is killed and the child is not.
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFault("another process is running it.") from None
            with self.lock:
                if self.stopping:
                    raise RunFault("stopped before it began.")
                # A session of its own: Ctrl-C comes once, through stop(), and the run saves.
                child = subprocess.Popen(command, cwd=root, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
                self.running.add(child)
            code = child.wait()
            self.running.discard(child)
        if code:
            last = next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "no output")
            raise RunFault(f"exit code {code}: {last} ({log.relative_to(root)} has more)")

    def stop(self) -> None:
        """Asks every process to save and end."""
        with self.lock:
            self.stopping = True
            for child in self.running:
                child.terminate()


def say(sentence: str) -> None:
    """Prints a line in one piece: runs are reported from several threads."""
    print(f"{sentence}\n", end="", flush=True)


def perform(task: Task, processes: Processes) -> tuple[str, dict[str, Any]]:
    """Makes, resumes or finds a run and writes its digest. Returns what was done, and the digest. Raises: RunFault, UsageError."""
    found, directory = state(task), task.root / task.directory
    log = directory.with_name(f"{directory.name}.log")
    where = f"--workdir={task.directory}"
    if found != "done":
        say(f"{task.name}: {'goes on' if found == 'cut' else 'begins'}, {log.relative_to(task.root)}")
    if found == "cut":
        processes.call([sys.executable, "run.py", "--resume", where], task.root, log)
    elif found == "new":
        if (directory / "run.flags").exists():
            shutil.rmtree(directory)  # cut short before its first checkpoint
        flags = [f"--flagfile=configs/{task.experiment.flagfile}", *task.experiment.flags, f"--seed={task.seed}"]
        processes.call([sys.executable, "run.py", *flags, where], task.root, log)
    if task.experiment.start is not None and not (directory / "untrained.json").exists():
        processes.call([sys.executable, str(Path(__file__).resolve()), "untrained", str(task.directory)], task.root, log)
    content = digest(directory)
    write_digest(task.root, task.experiment.name, task.seed, content)
    return {"done": "was there", "cut": "resumed", "new": "run"}[found], content


def make_runs(root: Path, only: str, workers: int) -> int:
    """Makes the missing runs, `workers` at a time. A run that fails is named and stops no other. Returns the exit code."""
    tasks = [Task(root, experiment, seed) for experiment, seed in chosen(load(root)[0], only)]
    processes, failed, begun = Processes(), [], time.monotonic()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ThreadPoolExecutor(workers) as pool:
            jobs = {pool.submit(perform, task, processes): task for task in tasks}
            try:
                for done, job in enumerate(as_completed(jobs), 1):
                    head = f"[{done}/{len(tasks)} {duration(time.monotonic() - begun)}] {jobs[job].name}:"
                    try:
                        how, content = job.result()
                        say(f"{head} {how}, greedy return {content['evaluation']['mean']:,.1f}")
                    except Exception as error:  # whatever went wrong with one run, the others go on
                        failed.append(jobs[job].name)
                        say(f"{head} FAILED, {error}")
            except KeyboardInterrupt:
                processes.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                say("Stopped; the same command goes on.")
                return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{len(tasks) - len(failed)} of {len(tasks)} runs are there." + (f" Failed: {', '.join(failed)}." if failed else ""))
    return int(bool(failed))


def make_digests(root: Path, only: str) -> int:
    """Writes the digest of each finished run anew. Returns the exit code."""
    for experiment, seed in chosen(load(root)[0], only):
        task = Task(root, experiment, seed)
        if (root / task.directory / "summary.json").exists():
            write_digest(root, experiment.name, seed, digest(root / task.directory))
            print(f"{task.name}: {DIGESTS}/{experiment.name}-seed{seed}.json")
    return 0


# What the page shows.


class Row(NamedTuple):
    """An experiment with all that is known of it."""

    experiment: Experiment
    digests: dict[int, dict[str, Any]]  # by seed, in the order of the seeds
    other: list[int]  # seeds whose digest has other flags
    peers: dict[int, dict[str, Any]]
    flagfile: bool  # whether it is there

    @property
    def returns(self) -> list[float]:
        return [content["evaluation"]["mean"] for content in self.digests.values()]

    @property
    def peer_returns(self) -> list[float]:
        return [content["evaluation"]["mean"] for content in self.peers.values()]

    @property
    def label(self) -> str:
        """What tells the experiment from others of its environment."""
        said = [flag for flag in self.experiment.flags if not flag.startswith("--algo=")]
        return self.experiment.label or " ".join([as_table(self.any["flags"])["algo"], *said])

    @property
    def any(self) -> dict[str, Any]:
        return next(iter(self.digests.values()))


def read_json(path: Path) -> dict[str, Any]:
    """Raises: RunFault if it is not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunFault(f"{path.name} cannot be read: {error}.") from None


def peers_of(root: Path, experiment: Experiment) -> dict[int, dict[str, Any]]:
    """Digests of the peer's runs, by seed; curves as ours."""
    if not experiment.peer:
        return {}
    pattern = f"{experiment.peer['algo']}-{experiment.peer['env']}-seed"
    found = {}
    for path in (root / PEERS).glob(f"{pattern}*.json"):
        content = read_json(path)
        points = content.get("curve", [])
        found[int(path.stem.removeprefix(pattern))] = {
            **content,
            "curve": {"steps": [p[0] for p in points], "return_mean": [p[1] for p in points]},
        }
    return dict(sorted(found.items()))


def gather(root: Path, experiment: Experiment) -> Row:
    """Digests of the seeds listed, with the flags that the flagfile gives; the peer's runs; the flagfile."""
    digests, other = {}, []
    for seed in experiment.seeds:
        path = root / DIGESTS / f"{experiment.name}-seed{seed}.json"
        if path.exists():
            content = read_json(path)
            if differences(expected(root, experiment, seed), content["flags"]):
                other.append(seed)
            else:
                digests[seed] = content
    return Row(experiment, digests, other, peers_of(root, experiment), (root / "configs" / experiment.flagfile).is_file())


class Bar(NamedTuple):
    """A number to reach, None where it is not known yet, and what it is."""

    value: float | None
    text: str


def optimum(where: str) -> float:
    """The value of 'module:function'. Raises: UsageError if it is not there."""
    module, _, function = where.partition(":")
    try:
        with program.quiet():
            return float(getattr(importlib.import_module(module), function)())
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"optimum = {where} cannot be called: {error}.") from None


def bars(row: Row) -> list[Bar]:
    """What the experiment has to reach; all of them count."""
    e, found, sign = row.experiment, [], 1 if row.experiment.direction == "up" else -1
    if e.bar == "peer":
        found.append(Bar(float(interquartile_mean(row.peer_returns)) if row.peers else None, "the peer's"))
    elif e.bar is not None:
        found.append(Bar(float(e.bar), ""))
    if e.start is not None:
        begun = [content["untrained"]["mean"] for content in row.digests.values() if "untrained" in content]
        whole = begun and len(begun) == len(row.digests)
        found.append(Bar(float(interquartile_mean(begun)) + sign * e.start if whole else None, f"untrained, {e.start:+g}"))
    if e.optimum and e.within is not None:
        best = optimum(e.optimum)
        found.append(Bar(best - sign * e.within * abs(best), f"within {e.within:.3%} of the exact optimum {number(best)}"))
    return found


def worst(row: Row, returns: list[float]) -> float:
    return min(returns) if row.experiment.direction == "up" else max(returns)


def measured(row: Row) -> float:
    """The statistic that the bar asks for."""
    kinds: dict[str, Callable[[list[float]], float]] = {
        "iqm": interquartile_mean,
        "mean": statistics.fmean,
        "worst": lambda returns: worst(row, returns),
    }
    return float(kinds[row.experiment.bar_kind](row.returns))


def verdict(row: Row) -> str:
    """'yes', 'no', or why it cannot be said."""
    missing = [seed for seed in row.experiment.seeds if seed not in row.digests]
    if missing:
        of = "" if not row.digests else f": seeds {listed(missing)}"
        return f"not run{of}" + (f" (seeds {listed(row.other)} were run with other flags)" if row.other else "")
    asked = [bar.value for bar in bars(row)]
    if None in asked:
        return "not run: the peer" if row.experiment.bar == "peer" and not row.peers else "not run: the untrained policy"
    sign = 1 if row.experiment.direction == "up" else -1
    if not asked:
        return "no bar"
    return "yes" if all(sign * (measured(row) - value) >= 0 for value in asked if value is not None) else "**no**"


# Writing it down.


def number(value: float, digits: int | None = None) -> str:
    """One digit after the point, two for small numbers."""
    digits = (1 if abs(value) >= 10 else 2) if digits is None else digits
    return f"{value:,.{digits}f}".replace("-", "−")


def given(value: Any) -> str:
    """A number of experiments.toml as it stands there."""
    return f"{value:,}".replace("-", "−")


def apart(value: float, others: list[float]) -> str:
    """A number with as many digits as tell it from bars that it is not."""
    digits = 1 if abs(value) >= 10 else 2
    while digits < 6 and any(value != other and round(value, digits) == round(other, digits) for other in others):
        digits += 1
    return number(value, digits)


def listed(seeds: Any) -> str:
    return ", ".join(map(str, seeds))


def escaped(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "&#124;").replace("\n", " ")


def plain(text: str) -> str:
    """Text with __ that Markdown shall not read as bold."""
    return text.replace("__", r"\_\_")


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def bar_cell(row: Row) -> str:
    of = {"iqm": "", "mean": "mean ", "worst": "worst "}[row.experiment.bar_kind] + ("≥ " if row.experiment.direction == "up" else "≤ ")
    cells = []
    for bar in bars(row):
        shown = "?" if bar.value is None else number(bar.value) if bar.text else given(row.experiment.bar)
        cells.append(f"{of}{shown}" + (f" ({bar.text})" if bar.text else ""))
    return "<br>".join(cells) or "–"


def result_cells(row: Row) -> list[str]:
    """Greedy return over seeds, and the worst seed."""
    if not row.digests:
        return ["not run", "–"]
    against = [bar.value for bar in bars(row) if bar.value is not None]
    low, high = band(row.returns)
    spread = f" [{number(low)}, {number(high)}]" if len(row.returns) > 1 else ""
    return [apart(float(interquartile_mean(row.returns)), against) + spread, apart(worst(row, row.returns), against)]


def peer_cell(row: Row) -> str:
    if not row.experiment.peer:
        return "–"
    if not row.peers:
        return "not run"
    first = next(iter(row.peers.values()))
    figures = f"{number(float(interquartile_mean(row.peer_returns)))}, worst {number(worst(row, row.peer_returns))}"
    return f"{figures}<br>{first['library']} {first['algo']}, {first['steps']:,} steps, seeds {listed(row.peers)}"


def cost_cells(row: Row) -> list[str]:
    if not row.digests:
        return ["–", "–"]
    seconds, speed = ([content[key] for content in row.digests.values()] for key in ("wall_seconds", "steps_per_second"))
    return [duration(statistics.median(seconds)), f"{statistics.median(speed):,.0f}"]


HEAD = (
    *("experiment", "seeds", "steps", "greedy return: interquartile mean [95 % band]", "worst seed", "bar", "reached"),
    *("reference figures", "peer on this machine", "wall time", "steps/s"),
)


def table_row(row: Row) -> str:
    e = row.experiment
    link = f"[{e.name}](../configs/{e.flagfile})" if row.flagfile else f"{e.name} (its flagfile is not written yet)"
    steps = f"{statistics.median_low(content['steps'] for content in row.digests.values()):,}" if row.digests else "–"
    figures = "<br>".join(f"{given(f['value'])}: {f['text']} ({plain(f['source'])})" for f in e.reference) or "–"
    name = " ".join([link, *(f"`{flag}`" for flag in e.flags)])
    cells = [name, listed(e.seeds), steps, *result_cells(row), bar_cell(row), verdict(row), figures, peer_cell(row), *cost_cells(row)]
    return "| " + " | ".join(map(escaped, cells)) + " |"


def flag_block(row: Row) -> list[str]:
    """The command, and every flag of the runs, folded away."""
    e = row.experiment
    command = " ".join(["python run.py", f"--flagfile=configs/{e.flagfile}", *e.flags, "--seed=K"])
    flags = [line for line in flag_lines(row.any["flags"]) if not line.startswith("--seed=")] if row.digests else ["# Not run yet."]
    head = f"<details><summary>{e.name}: seeds {listed(e.seeds)}</summary>"
    return [head, "", "```text", command, *flags, "```", "", "</details>", ""]


def claim_lines(row: Row) -> Iterator[str]:
    e = row.experiment
    yield f"- **{e.name}**: {e.claim}" + (f" *{e.note}*" if e.note else "")
    counts = {name: sum(content["counts"].get(name, 0) for content in row.digests.values()) for name in COUNTED}
    said = [f"{count:,} updates were {name}" for name, count in counts.items() if count]
    if said:
        yield f"  In its {len(row.digests)} runs {' and '.join(said)}."


def measuring(rows: list[Row], sources: dict[str, str]) -> list[str]:
    """How it was measured: what holds for every page, and what the digests say of these runs."""
    contents = [content for row in rows for content in row.digests.values()]
    found = {
        "Greedy episodes per evaluation": {f"{content['evaluation']['episodes']:,}" for content in contents},
        "Devices": {
            f"{content['device']}, {content['threads']} threads" if "threads" in content else content["device"] for content in contents
        },
        "Versions": {
            ", ".join(f"{name} {version}" for name, version in content["versions"].items() if name != "tfpg") for content in contents
        },
        "The peer's versions": {
            ", ".join(f"{name} {version}" for name, version in peer["versions"].items()) for row in rows for peer in row.peers.values()
        },
    }
    return [
        *MEASURED.splitlines(),
        *(f"- {name}: {'; '.join(sorted(values))}." for name, values in found.items() if values),
        "",
        "Reference figures come from others, who measure in other ways; steps and settings differ from ours:",
        "",
        *(f"- {plain(name)}: {text}." for name, text in sources.items()),
    ]


INTRODUCTION = """\
# Results

`make results` writes this page from [experiments.toml](../benchmarks/experiments.toml) and the digests of runs in `docs/results/runs`;
nothing in it is typed by hand. `make results ARGS=run` makes the runs that are missing, `make results ARGS="run --only='cartpole_*'"` some
of them.
"""

MEASURED = f"""\
- A run is one process of `run.py` with the flagfile and the seed shown. It gives one number: the mean return of its last policy over greedy
  episodes that were not used before.
- Interquartile mean, over the runs' numbers: the mean of the middle half. A quarter of the weight is cut off at each end, and values across
  a cut count in part: of three seeds the middle one weighs 2/3 and the others 1/6 each; of five, 0, 0.3, 0.4, 0.3, 0.
- The band holds the middle 95 % of the interquartile means of {RESAMPLES:,} resamples of the seeds (percentile bootstrap, the same
  resamples each time). With three to five seeds such a band is too narrow rather than too wide.
- A bar is reached if the interquartile mean reaches it (the worst seed or the plain mean, where the bar says so), with all its seeds run.
- Curves show the return per episode while training, with sampled actions: interquartile mean over seeds, and band. Bars are of greedy
  returns. A curve ends where the shortest of its runs ends.
- The peer was run on the same machine, with the settings its authors publish, and is judged likewise: see `benchmarks/peers`.
- Wall time and steps/s are medians over seeds, with compilation or, for later seeds of a row, the reading of programs that an earlier one
  compiled. Several runs may have shared the machine: times are upper bounds.
"""


def page(rows: list[Row], sources: dict[str, str], pictures: dict[str, "Picture"]) -> str:
    """The text of docs/results.md."""
    verdicts = [verdict(row) for row in rows]
    reached, failed = verdicts.count("yes"), verdicts.count("**no**")
    waiting = sum(v.startswith("not run") for v in verdicts)
    tally = f"Of {len(rows)} experiments {reached} reach their bar, {failed} do not, and {waiting} are not run, or not with every seed."
    lines = [INTRODUCTION, tally, ""]
    for group in dict.fromkeys(row.experiment.group for row in rows):
        members = [row for row in rows if row.experiment.group == group]
        lines += [f"## {group}", "", "| " + " | ".join(HEAD) + " |", "| --- " * len(HEAD) + "|", *map(table_row, members), ""]
        lines += ["What each is to show, and shows where its bar is reached:", ""]
        lines += [*(line for row in members for line in claim_lines(row)), ""]
        if group in pictures:
            lines += [f"![{group}: training return against environment steps](results/{slug(group)}.png)", ""]
    lines += ["## How it was measured", "", *measuring(rows, sources), "", "## Flags and seeds", ""]
    lines += [line for row in rows for line in flag_block(row)]
    return "\n".join(lines).rstrip() + "\n"


# Pictures.

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#5B5B5B")
PEER_COLOUR = "black"


class Line(NamedTuple):
    """One curve of a panel with its bars: what is drawn, and nothing else."""

    label: str
    curves: list[dict[str, list]]
    bars: list[float]
    peer: bool = False


class Picture(NamedTuple):
    """Panels by environment; lines of the same label have the same colour."""

    panels: dict[str, list[Line]]

    def fingerprint(self) -> str:
        """Of the data and of the code that draws it; the bytes of a PNG depend on the version of matplotlib too."""
        code = "".join(inspect.getsource(part) for part in (draw, draw_panel, draw_line, common_curve, band, interquartile_mean))
        return hashlib.sha256((code + json.dumps([COLOURS, PEER_COLOUR, POINTS, RESAMPLES, self.panels])).encode()).hexdigest()


def pictures_of(rows: list[Row]) -> dict[str, Picture]:
    """A picture for each group of which something was run."""
    found: dict[str, Picture] = {}
    for row in (row for row in rows if row.digests):
        panel = found.setdefault(row.experiment.group, Picture({})).panels.setdefault(as_table(row.any["flags"])["env"], [])
        heights = [float(f"{bar.value:.6g}") for bar in bars(row) if bar.value is not None]
        panel.append(Line(row.label, [content["curve"] for content in row.digests.values()], heights))
        if row.peers:
            first = next(iter(row.peers.values()))
            peer = Line(f"{first['library']} {first['algo']}", [content["curve"] for content in row.peers.values()], [], peer=True)
            if peer not in panel:
                panel.append(peer)
    return found


def draw_line(axes: Any, line: Line, colour: str, style: Any) -> None:
    """Interquartile mean, band, and bars in the same colour."""
    found = common_curve(line.curves)
    if found:
        grid, returns = found
        if len(returns) > 1:
            axes.fill_between(grid, *band(returns), color=colour, alpha=0.18, lw=0)
        axes.plot(grid, interquartile_mean(returns), color=colour, ls=style, lw=1.6, label=line.label)
    for height in line.bars:
        axes.axhline(height, color=colour, ls=(0, (5, 4)), lw=1)


def draw_panel(axes: Any, env: str, lines: list[Line], labels: list[str], peers: list[str]) -> None:
    """One environment, its legend below."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter

    for line in lines:
        if line.peer:
            draw_line(axes, line, PEER_COLOUR, ("-", ":")[peers.index(line.label) % 2])
        else:
            i = labels.index(line.label)
            draw_line(axes, line, COLOURS[i % len(COLOURS)], ("-", (0, (3, 1, 1, 1)))[i // len(COLOURS) % 2])
    axes.set(title=env, xlabel="environment steps", ylabel="training return")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    handles, names = axes.get_legend_handles_labels()
    if any(line.bars for line in lines):
        handles, names = [*handles, Line2D([], [], color="#5B5B5B", ls=(0, (5, 4)), lw=1)], [*names, "bar (greedy return)"]
    columns = 2 if max(map(len, names), default=0) > 18 else 4
    axes.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=columns, frameon=False, fontsize=9)


def draw(path: Path, picture: Picture) -> None:
    """Writes a PNG in one piece, with the picture's fingerprint inside."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(2, len(picture.panels))
    height = -(-len(picture.panels) // columns)
    figure = Figure(figsize=(5.2 * columns if columns > 1 else 7, 4.0 * height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    lines = [line for panel in picture.panels.values() for line in panel]
    labels, peers = (list(dict.fromkeys(line.label for line in lines if line.peer is peer)) for peer in (False, True))
    for i, (env, panel) in enumerate(picture.panels.items(), 1):
        draw_panel(figure.add_subplot(height, columns, i), env, panel, labels, peers)
    temporary = path.with_name(f"{path.name}.tmp")
    figure.savefig(temporary, format="png", metadata={"Software": None, "Fingerprint": picture.fingerprint()})
    temporary.replace(path)


def fingerprint_in(path: Path) -> str | None:
    """What a picture says it was drawn from."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return getattr(image, "text", {}).get("Fingerprint")
    except OSError:
        return None


# The program.


def stale(root: Path, text: str, pictures: dict[str, Picture]) -> list[str]:
    """What has to be made anew, in a sentence each."""
    found = [] if (root / PAGE).is_file() and (root / PAGE).read_text("utf-8") == text else [f"{PAGE} {STALE}"]
    for group, picture in pictures.items():
        if fingerprint_in(root / PICTURES / f"{slug(group)}.png") != picture.fingerprint():
            found.append(f"{PICTURES}/{slug(group)}.png {STALE}")
    return found


def make_page(root: Path, check: bool) -> int:
    """Writes or checks the page and its pictures. Returns the exit code."""
    experiments, sources = load(root)
    rows = [gather(root, experiment) for experiment in experiments]
    pictures = pictures_of(rows)
    text = page(rows, sources, pictures)
    sentences = stale(root, text, pictures)
    if check:
        print("\n".join(sentences) or f"{PAGE} and its pictures are up to date.")
        return int(bool(sentences))
    (root / PICTURES).mkdir(parents=True, exist_ok=True)
    for group, picture in pictures.items():
        path = root / PICTURES / f"{slug(group)}.png"
        if fingerprint_in(path) != picture.fingerprint():
            draw(path, picture)
    (root / PAGE).write_text(text, "utf-8")
    return 0


def main(arguments: list[str], root: Path = ROOT) -> int:
    """The exit code of one command."""
    parser = argparse.ArgumentParser(prog="results.py", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("run", help="make the runs that are missing, resume those cut short, write digests")
    making.add_argument("--workers", type=int, default=2, help="runs at a time")
    again = commands.add_parser("digest", help="write the digests of finished runs")
    for command in (making, again):
        command.add_argument("--only", default="*", help="experiments, or experiment-seedK, that match a pattern")
    commands.add_parser("page", help="write docs/results.md").add_argument("--check", action="store_true", help="say whether it is stale")
    commands.add_parser("untrained", help="judge the policy a run began with").add_argument("directory", type=Path)
    # `make results` alone writes the page, and `make results ARGS=--check` checks it.
    known = {*commands.choices, "-h", "--help"}
    said = parser.parse_args(arguments if arguments and arguments[0] in known else ["page", *arguments])
    try:
        if said.command == "run":
            if said.workers < 1:
                raise UsageError(f"--workers={said.workers} is out of range: 1 or more are allowed.")
            return make_runs(root, said.only, said.workers)
        if said.command == "digest":
            return make_digests(root, said.only)
        if said.command == "untrained":
            untrained(said.directory)
            return 0
        return make_page(root, said.check)
    except (UsageError, RunFault) as error:
        print(f"results.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
