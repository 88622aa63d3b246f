"""tfpg/DeepRM-v0: scheduling jobs on a cluster   (PG-125).

Time comes in steps, and a job may arrive with each: it needs so many units of each resource for so many steps. Jobs wait in slots, where
the scheduler sees them, or behind those in a backlog that it only sees the length of. An action starts the job of a slot as early as it
fits, or lets time pass:

    a in {0, .., slots - 1}   the job of slot a is planned at the first steps in which all its units are free; the time stands still, the
                              reward is 0, and the head of the backlog moves up into the slot
    a = slots                 time passes; so it does if the slot is empty, or its job fits nowhere in the steps that are planned

As time passes each job in the system, waiting or running, costs 1 / its length: without discount the return is minus the sum of slowdowns,
(finish - arrival) / length >= 1. A job that arrives where slots and backlog are full is dropped; it costs nothing from then on.

Source: Mao, Alizadeh, Menache and Kandula 2016, Resource Management with Deep Reinforcement Learning. Sizes and laws are those of the
authors' program rather than of the text, which contradicts them (the jobs of the text could never load the cluster to 190 %).

`semantics='reference'` repeats what that program does otherwise, so that its figures can be had:

    a job that finishes beside another one stays in the list one step longer, and costs 1 / length once more
    the last of the steps at which a job would just fit is not tried
    the job of the first step never arrives
    the cost is counted after departures and arrivals, so a job pays in advance
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfpg import trees
from tfpg.types import Environment, Nest, Spaces

NAME = "tfpg/DeepRM-v0"
SEMANTICS = ("corrected", "reference")
COLOURS = 39  # of running jobs in the image: 1/40, .., 39/40
LONGEST_QUIET = 10  # steps since an arrival, beyond which the image does not count
RUNNING = 100  # jobs that the reference semantics can list at once
WAITING, DROPPED = -1, -2  # in `start`


class Cluster(NamedTuple):
    """How large everything is."""

    resources: int = 2
    units: int = 10  # of each resource
    window: int = 20  # steps that are planned ahead, the height of the image
    slots: int = 10
    backlog: int = 60

    @property
    def codes(self) -> int:
        """Numbers of a code."""
        return self.resources * self.window * self.units + self.slots * (1 + self.resources) + 2

    @property
    def backlog_columns(self) -> int:
        return -(-self.backlog // self.window)

    @property
    def width(self) -> int:
        """Columns of the image: per resource the plan and the slots, then the backlog, then the time since the last arrival."""
        return self.resources * self.units * (1 + self.slots) + self.backlog_columns + 1


class Jobs(NamedTuple):
    """Sequences of jobs: job k arrives with step k, if its length is not 0."""

    length: np.ndarray  # [E, L] steps
    size: np.ndarray  # [E, L, R] units of each resource


class State(NamedTuple):
    """N clusters."""

    length: tf.Tensor  # [N, L] the jobs, as in `Jobs`
    size: tf.Tensor  # [N, L, R]
    start: tf.Tensor  # [N, L] the step at which a job starts, WAITING or DROPPED
    slots: tf.Tensor  # [N, M] jobs by their number, -1 where there is none
    backlog: tf.Tensor  # [N, B] likewise, the head first
    time: tf.Tensor  # [N]
    used: tf.Tensor  # [N, R, T] units taken in the steps from now on
    plan: tf.Tensor  # [N, R, T, U] colours of the jobs that take them, 0 where free
    colours: tf.Tensor  # [N, COLOURS] in the order in which jobs get them
    quiet: tf.Tensor  # [N] steps since the last arrival
    running: Nest  # reference semantics: [N, RUNNING] jobs in the order in which they were planned


def draw(n: int, steps: int, rate: float, rate_to: float, seed: tf.Tensor, cluster: Cluster) -> tuple[tf.Tensor, tf.Tensor]:
    """Jobs that arrive with a probability per step that each cluster draws from U(rate, rate_to): length [n, steps], size [n, steps, R].

    Four in five are short, U{1..3} steps, the others U{10..15}; of one resource they need U{5..10} of ten units, of the others U{1..2}.
    """
    keys = tf.unstack(tf.random.experimental.stateless_split(seed, 8))

    def whole(shape: list[int], low: int, high: int, key: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform(shape, key, low, high + 1, tf.int32)

    own = rate + (rate_to - rate) * tf.random.stateless_uniform([n, 1], keys[7])
    comes, short = (tf.random.stateless_uniform([n, steps], key) < p for p, key in ((own, keys[0]), (0.8, keys[1])))
    length = tf.where(short, whole([n, steps], 1, 3, keys[2]), whole([n, steps], 10, 15, keys[3]))
    much = tf.one_hot(whole([n, steps], 0, cluster.resources - 1, keys[4]), cluster.resources, True, False, dtype=tf.bool)
    sizes, units = [n, steps, cluster.resources], cluster.units
    size = tf.where(much, whole(sizes, max(units // 2, 1), units, keys[5]), whole(sizes, 1, max(units // 5, 1), keys[6]))
    return tf.where(comes, length, 0), tf.where(comes[..., None], size, 0)


def published(sequences: int, steps: int, rate: float, seed: int) -> Jobs:
    """The sequences that the authors' program draws from NumPy's global generator: their seeds are 42 (training) and 314159 (unseen)."""
    rng = np.random.RandomState(seed)
    length, size = np.zeros([sequences * steps], np.int32), np.zeros([sequences * steps, 2], np.int32)
    for k in range(sequences * steps):
        if rng.rand() < rate:
            length[k] = rng.randint(1, 4) if rng.rand() < 0.8 else rng.randint(10, 16)
            much = rng.randint(0, 2)
            for r in range(2):
                size[k, r] = rng.randint(5, 11) if r == much else rng.randint(1, 3)
    return Jobs(length.reshape(sequences, steps), size.reshape(sequences, steps, 2))


def check_jobs(jobs: Jobs, cluster: Cluster) -> Jobs:
    """Raises ValueError for a job that no cluster of this size can run."""
    length, size = np.asarray(jobs.length), np.asarray(jobs.size)
    if length.ndim != 2 or size.shape != (*length.shape, cluster.resources):
        raise ValueError(f"length {list(length.shape)} and size {list(size.shape)} are not [E, L] and [E, L, {cluster.resources}]")
    for (e, k), steps in np.ndenumerate(length):
        needs = size[e, k]
        if not 0 <= steps <= cluster.window:
            raise ValueError(f"job {k} of sequence {e} takes {steps} steps: 0 (no job) to {cluster.window} are allowed")
        if steps and not ((needs >= 0) & (needs <= cluster.units)).all():
            raise ValueError(f"job {k} of sequence {e} needs {needs.tolist()} units: 0 to {cluster.units} of each resource are allowed")
    return Jobs(length.astype(np.int32), size.astype(np.int32))


def of(table: tf.Tensor, job: tf.Tensor) -> tf.Tensor:
    """The entries of jobs by number, 0 where the number is negative: table [N, L, ...], job [N, K] -> [N, K, ...]."""
    found = tf.gather(table, tf.maximum(job, 0), batch_dims=1)
    return tf.where(tf.reshape(job >= 0, [*job.shape, *[1] * (found.shape.rank - 2)]), found, tf.zeros_like(found))


def present(state: State) -> tf.Tensor:
    """Which jobs are in the system, waiting or running   [N, L]."""
    k, time = tf.range(state.length.shape[1]), state.time[:, None]
    unfinished = (state.start == WAITING) | ((state.start >= 0) & (state.start + state.length > time))
    return (state.length > 0) & (k <= time) & unfinished


def cost(length: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """1 / length of each job, 0 where there is none."""
    return tf.math.divide_no_nan(tf.ones([], dtype), tf.cast(length, dtype))


def first_fit(state: State, length: tf.Tensor, size: tf.Tensor, latest: int) -> tuple[tf.Tensor, tf.Tensor]:
    """How many steps from now a job fits for its whole length, which ends after `latest` steps at last, and whether it does at all.

    Args: length [N]; size [N, R]. Returns: [N], [N] bool.
    """
    cluster_units, window = state.plan.shape[-1], state.used.shape[-1]
    full = tf.reduce_any(state.used + size[..., None] > cluster_units, axis=1)  # [N, T]
    before = tf.pad(tf.cumsum(tf.cast(full, tf.int32), axis=1), [[0, 0], [1, 0]])
    t = tf.range(window)[None]
    end = t + length[:, None]
    free = tf.gather(before, tf.minimum(end, window), batch_dims=1) == before[:, :-1]
    fits = free & (end <= latest)
    return tf.argmax(fits, axis=1, output_type=tf.int32), tf.reduce_any(fits, axis=1) & (length > 0)


def put(row: tf.Tensor, job: tf.Tensor, where: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A job in the first empty place of a row, where asked for: row [N, K], job [N], where [N] bool -> row, and whether it found one."""
    empty = row < 0
    found = where & tf.reduce_any(empty, axis=1)
    place = tf.one_hot(tf.argmax(empty, axis=1), row.shape[1], True, False, dtype=tf.bool)
    return tf.where(place & found[:, None], job[:, None], row), found


def allot(state: State, action: tf.Tensor, latest: int) -> tuple[State, tf.Tensor]:
    """Plans the job of a slot where it fits: action [N] -> state, and which clusters did   [N] bool."""
    slots, (jobs, window) = state.slots.shape[1], (state.length.shape[1], state.used.shape[-1])
    chosen = tf.one_hot(action, slots, True, False, dtype=tf.bool)  # none for the action that waits
    job = tf.reduce_max(tf.where(chosen, state.slots, -1), axis=1)
    length, size = of(state.length, job[:, None])[:, 0], of(state.size, job[:, None])[:, 0]
    after, fits = first_fit(state, length, size, latest)
    t = tf.range(window)[None]
    rows = (t >= after[:, None]) & (t < (after + length)[:, None]) & fits[:, None]  # [N, T]
    unit = tf.range(state.plan.shape[-1])
    beside = (unit >= state.used[..., None]) & (unit < (state.used + size[..., None])[..., None])
    colour = tf.gather(state.colours, tf.maximum(job, 0) % COLOURS, batch_dims=1)
    own = tf.one_hot(job, jobs, True, False, dtype=tf.bool) & fits[:, None]
    head = tf.where(chosen & fits[:, None], state.backlog[:, :1], state.slots)
    moved = tf.concat([state.backlog[:, 1:], tf.fill([state.backlog.shape[0], 1], -1)], axis=1)
    running = () if isinstance(state.running, tuple) else put(state.running, job, fits)[0]
    return state._replace(
        start=tf.where(own, (state.time + after)[:, None], state.start),
        slots=head,
        backlog=tf.where(fits[:, None], moved, state.backlog),
        used=state.used + tf.where(rows[:, None], size[..., None], 0),
        plan=tf.where(rows[:, None, :, None] & beside, colour[:, None, None, None], state.plan),
        running=running,
    ), fits


def arrive(state: State) -> State:
    """The job of the present step, if there is one, enters a slot, or the backlog, or is dropped."""
    job, jobs = state.time, state.length.shape[1]
    comes = (job < jobs) & (tf.gather(state.length, tf.minimum(job, jobs - 1), batch_dims=1) > 0)
    slots, seen = put(state.slots, job, comes)
    backlog, kept = put(state.backlog, job, comes & ~seen)
    lost = tf.one_hot(job, jobs, True, False, dtype=tf.bool) & (comes & ~seen & ~kept)[:, None]
    quiet = tf.where(comes, 0, state.quiet)
    return state._replace(start=tf.where(lost, DROPPED, state.start), slots=slots, backlog=backlog, quiet=quiet)


def tick(state: State) -> State:
    """One step of time: the plan moves up by a row."""
    used = tf.concat([state.used[..., 1:], tf.zeros_like(state.used[..., :1])], axis=-1)
    plan = tf.concat([state.plan[:, :, 1:], tf.zeros_like(state.plan[:, :, :1])], axis=2)
    return state._replace(time=state.time + 1, used=used, plan=plan, quiet=tf.minimum(state.quiet + 1, LONGEST_QUIET))


def leave(state: State) -> State:
    """Reference semantics: finished jobs leave the list, except those behind one that just left it, which is walked past."""
    listed = state.running >= 0
    finish = of(state.start + state.length, state.running)
    done = listed & (finish <= state.time[:, None])
    place = tf.range(RUNNING)[None]
    past = (place[:, None] <= place[..., None]) & ~done[:, None]  # [N, C, C]
    in_a_row = place - tf.reduce_max(tf.where(past, place[:, None], -1), axis=2)  # how many finished jobs stand there side by side
    stays = listed & ~(done & (in_a_row % 2 == 1))
    order = tf.argsort(tf.where(stays, place, place + RUNNING), axis=1)
    return state._replace(running=tf.gather(tf.where(stays, state.running, -1), order, batch_dims=1))


def code(state: State, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """What the scheduler is told, as few whole numbers [N, R T U + M + M R + 2]: `paint` makes the image of it.

    The colours of the plan, the lengths of the jobs in the slots, their sizes, how many jobs stand behind, and the steps since an arrival.
    """
    n, behind = state.slots.shape[0], tf.reduce_sum(tf.cast(state.backlog >= 0, tf.int32), axis=1)
    parts = (state.plan, of(state.length, state.slots), of(state.size, state.slots), behind, state.quiet)
    return tf.concat([tf.cast(tf.reshape(part, [n, -1]), dtype) for part in parts], axis=1)


class Code(NamedTuple):
    """The parts of a code, their leading axes as one."""

    plan: tf.Tensor  # [B, R T U]
    length: tf.Tensor  # [B, M] int32
    size: tf.Tensor  # [B, M, R] int32
    behind: tf.Tensor  # [B] int32
    quiet: tf.Tensor  # [B]


def parts(x: tf.Tensor, cluster: Cluster) -> Code:
    """A code [B, K] taken apart."""
    cells, slots = cluster.resources * cluster.window * cluster.units, cluster.slots
    plan, length, size, behind, quiet = tf.split(x, [cells, slots, slots * cluster.resources, 1, 1], axis=1)
    length, size, behind = (tf.cast(part, tf.int32) for part in (length, size, behind))
    return Code(plan, length, tf.reshape(size, [-1, slots, cluster.resources]), behind[:, 0], quiet[:, 0])


def paint(x: tf.Tensor, cluster: Cluster) -> tf.Tensor:
    """The published image of a code: [B, K] -> [B, T, W] in [0, 1], a row for each step that is planned.

    Per resource the plan, U columns of the running jobs' colours, and of each slot U columns with a block of the job's length and size;
    then the backlog's jobs as cells, row by row, and a column of the steps since an arrival, in tenths.
    """
    resources, units, window, slots, _ = cluster
    c, t = parts(x, cluster), tf.range(window)
    plan = tf.reshape(c.plan, [-1, resources, window, 1, units]) / (COLOURS + 1)
    tall = tf.transpose(t < c.length[..., None], [0, 2, 1])  # [B, T, M]
    wide = tf.transpose(tf.range(units) < c.size[..., None], [0, 2, 1, 3])  # [B, R, M, U]
    blocks = tf.cast(tall[:, None, ..., None] & wide[:, :, None], x.dtype)  # [B, R, T, M, U]
    jobs = tf.transpose(tf.concat([plan, blocks], axis=3), [0, 2, 1, 3, 4])
    cell = t[:, None] * cluster.backlog_columns + tf.range(cluster.backlog_columns)
    behind = tf.cast(cell < c.behind[:, None, None], x.dtype)
    quiet = tf.broadcast_to(c.quiet[:, None, None] / LONGEST_QUIET, tf.shape(behind[..., :1]))
    return tf.concat([tf.reshape(jobs, [-1, window, resources * (1 + slots) * units]), behind, quiet], axis=2)


def summary(x: tf.Tensor, cluster: Cluster) -> tf.Tensor:
    """A code without colours: [B, K] -> [B, R T + M (1 + R) + 2] in [0, 1].

    The share of each resource that is taken in each step, each slot's length and sizes, the backlog, and the steps since an arrival.
    """
    resources, units, window, slots, backlog = cluster
    c = parts(x, cluster)
    taken = tf.cast(tf.reshape(c.plan, [-1, resources * window, units]) > 0, x.dtype)
    size = tf.reshape(c.size, [-1, slots * resources])
    scaled = ((c.length, window), (size, units), (c.behind[:, None], max(backlog, 1)), (c.quiet[:, None], LONGEST_QUIET))
    return tf.concat([tf.reduce_mean(taken, axis=-1), *[tf.cast(part, x.dtype) / scale for part, scale in scaled]], axis=1)


def first_layer(x: tf.Tensor, kernel: tf.Tensor, cluster: Cluster) -> tf.Tensor:
    """paint(x) W without painting: x [..., K], kernel W [T W, H] -> [..., H].

    A block of ones of some length and size, times W, is an entry of the table of W's sums over all such blocks; so are the first cells of
    the backlog. That leaves the plan to be multiplied, a tenth of the image.
    """
    resources, units, window, slots, _ = cluster
    hidden, c = kernel.shape[1], parts(tf.reshape(x, [-1, x.shape[-1]]), cluster)
    w = tf.reshape(kernel, [window, cluster.width, hidden])
    jobs, behind, quiet = tf.split(w, [cluster.width - cluster.backlog_columns - 1, cluster.backlog_columns, 1], axis=1)
    jobs = tf.reshape(jobs, [window, resources, 1 + slots, units, hidden])
    of_plan = c.plan / (COLOURS + 1) @ tf.reshape(tf.transpose(jobs[:, :, 0], [1, 0, 2, 3]), [resources * window * units, hidden])
    of_units = tf.reshape(tf.transpose(jobs[:, :, 1:], [3, 0, 1, 2, 4]), [units, -1])
    until_unit, until_step = (tf.constant(np.tri(k + 1, k, -1), w.dtype) for k in (units, window))  # XLA's own sums take quadratic time
    of_steps = tf.transpose(tf.reshape(until_unit @ of_units, [units + 1, window, -1]), [1, 0, 2])
    blocks = until_step @ tf.reshape(of_steps, [window, -1])  # [T + 1, (U + 1) R M H]
    r, m = tf.range(resources), tf.range(slots)
    entry = (c.length[..., None] * (units + 1) + c.size) * resources * slots + r * slots + m[:, None]  # [B, M, R]
    of_slots = tf.gather(tf.reshape(blocks, [-1, hidden]), tf.reshape(entry, [-1, slots * resources]))
    cells = tf.pad(tf.cumsum(tf.reshape(behind, [-1, hidden])), [[1, 0], [0, 0]])
    of_quiet = c.quiet[:, None] / LONGEST_QUIET * tf.reduce_sum(quiet[:, 0], axis=0)
    found = of_plan + tf.reduce_sum(of_slots, axis=1) + tf.gather(cells, c.behind) + of_quiet
    return tf.reshape(found, tf.concat([tf.shape(x)[:-1], [hidden]], axis=0))


def picture(state: State, cell: int = 6) -> np.ndarray:
    """The first cluster as a person sees it: bytes [height, width, 3], a square of `cell` pixels for each cell of the image.

    Jobs that run or are planned have colours, those in the slots are white, a free unit is black, and grey lines part the columns.
    """
    cluster = Cluster(state.used.shape[1], state.plan.shape[-1], state.used.shape[2], state.slots.shape[1], state.backlog.shape[1])
    values = paint(code(state)[:1], cluster)[0].numpy()
    running = np.zeros(cluster.width, bool)
    for r in range(cluster.resources):
        running[r * (1 + cluster.slots) * cluster.units :][: cluster.units] = True
    hues = np.stack([np.cos(2 * np.pi * (0.618 * (COLOURS + 1) * values - third)) for third in (0, 1 / 3, 2 / 3)], axis=-1)
    colours = np.where((running & (values > 0))[..., None], 0.6 + 0.4 * hues, values[..., None])
    pixels = np.kron(colours, np.ones([cell, cell, 1]))
    ends = [*range(cluster.units, cluster.resources * (1 + cluster.slots) * cluster.units + 1, cluster.units), cluster.width - 1]
    pixels[:, [cell * end - 1 for end in ends]] = 0.4
    return (255 * pixels).astype(np.uint8)


VIEWS: dict[str, Callable[[tf.Tensor, Cluster], tf.Tensor]] = {"summary": summary, "image": paint, "code": lambda x, _: x}


def make(
    dtype: tf.DType = tf.float32,
    rate: float = 0.7,
    rate_to: float = 0.0,
    steps: int = 50,
    sequences: int = 0,
    sequence_seed: int = 42,
    semantics: str = "corrected",
    view: str = "summary",
    jobs: Jobs | None = None,
    cluster: Cluster = Cluster(),  # noqa: B008
) -> Environment:
    """Clusters that begin empty   (PG-125): `steps` steps with an arrival at probability `rate` each, then as many as it takes to finish.

    Args:
        rate_to: 0: all clusters have the same rate; else each draws its own between `rate` and this one.
        sequences: 0: new jobs for each episode; else so many sequences, those of `published` from sequence_seed, and the next reset goes
            through them in order: cluster i has sequence i % sequences.
        view: what is observed, 'summary' [72], 'image' [20, 224] as published, or its 'code' [432], which --network=deeprm reads.
        jobs: the sequences themselves, instead.
    An episode ends when all steps with arrivals are over and every job has finished; 2,000 decisions are its limit.
    Raises: ValueError for what cannot be.
    """
    if semantics not in SEMANTICS:
        raise ValueError(f"semantics={semantics}: {' and '.join(SEMANTICS)} are allowed")
    if view not in VIEWS:
        raise ValueError(f"view={view}: {', '.join(VIEWS)} are allowed")
    if not (0 <= rate <= 1 and 0 <= rate_to <= 1):
        raise ValueError(f"rate={rate}, rate_to={rate_to}: probabilities of an arrival, from 0 to 1, are allowed")
    if rate_to and (sequences or jobs is not None):
        raise ValueError(f"rate_to={rate_to} goes with jobs that are drawn for each episode: sequences=0 is allowed")
    if steps < 1 or sequences < 0 or sequence_seed < 0:
        raise ValueError(f"steps={steps}, sequences={sequences}, sequence_seed={sequence_seed}: from 1, 0 and 0 on are allowed")
    if min(cluster) < 1:
        raise ValueError(f"cluster={cluster}: sizes from 1 on are allowed")
    if jobs is None and sequences:
        jobs = published(sequences, steps, rate, sequence_seed)
    given = None if jobs is None else check_jobs(jobs, cluster)
    corrected = semantics == "corrected"

    def reset(n: int, seed: tf.Tensor) -> State:
        seeds = tf.random.experimental.stateless_split(seed, 2)
        if given is None:
            length, size = draw(n, steps, rate, rate_to or rate, seeds[0], cluster)
        else:
            of_cluster = np.arange(n) % len(given.length)
            length, size = tf.constant(given.length[of_cluster]), tf.constant(given.size[of_cluster])
        colours = 1 + tf.argsort(tf.random.stateless_uniform([n, COLOURS], seeds[1]), axis=1)
        state = State(
            length,
            size,
            start=tf.fill(length.shape, WAITING),
            slots=tf.fill([n, cluster.slots], -1),
            backlog=tf.fill([n, cluster.backlog], -1),
            time=tf.zeros([n], tf.int32),
            used=tf.zeros([n, cluster.resources, cluster.window], tf.int32),
            plan=tf.zeros([n, cluster.resources, cluster.window, cluster.units], tf.int32),
            colours=colours,
            quiet=tf.zeros([n], tf.int32),
            running=() if corrected else tf.fill([n, RUNNING], -1),
        )
        return arrive(state) if corrected else state

    def in_system(state: State) -> tf.Tensor:
        """sum_j 1 / T_j over the jobs in the system   [N]."""
        if corrected:
            return tf.reduce_sum(tf.where(present(state), cost(state.length, dtype), 0), axis=1)
        return sum(tf.reduce_sum(cost(of(state.length, row), dtype), axis=1) for row in (state.running, state.slots, state.backlog))

    def advance(state: State) -> tuple[State, tf.Tensor]:
        before = in_system(state)
        state = tick(state)
        if corrected:
            return arrive(state), -before
        state = arrive(leave(state))
        return state, -in_system(state)

    def step(state: State, action: tf.Tensor, seed: tf.Tensor) -> tuple[State, tf.Tensor, tf.Tensor]:
        planned, fits = allot(state, action, cluster.window if corrected else cluster.window - 1)
        passed, reward = advance(state)
        state = trees.where_rows(fits, planned, passed)
        left = tf.reduce_any(present(state), axis=1) if corrected else in_system(state) > 0
        return state, tf.where(fits, tf.zeros_like(reward), reward), (state.time >= state.length.shape[1]) & ~left

    def observe(state: State) -> tf.Tensor:
        return VIEWS[view](code(state, dtype), cluster)

    shape = tf.function(observe).get_concrete_function(reset(1, tf.constant([0, 0]))).outputs[0].shape[1:]
    return Environment(NAME, Spaces(tuple(shape), actions=cluster.slots + 1), 2000, reset, observe, step)
