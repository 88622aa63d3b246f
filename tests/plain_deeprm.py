"""A plain simulator of one DeepRM cluster (Mao et al., HotNets 2016), in loops: what the in-graph environment is compared with."""

import numpy as np

WAITING, DROPPED, EMPTY = -1, -2, -1


class PlainDeepRM:
    """One cluster, one sequence of jobs; job `k` arrives at time `k`, and an action is a slot or, to wait, `slots`."""

    def __init__(self, length, size, semantics="corrected", resources=2, units=10, window=20, slots=10, backlog=60, colours=None):
        """`length` [L] in time steps (0: no job), `size` [L, R] in units; `semantics` is "corrected" or "reference"."""
        if semantics not in ("corrected", "reference"):
            raise ValueError(f"semantics must be 'corrected' or 'reference', not {semantics!r}")
        self.length = [int(steps) for steps in length]
        self.size = np.asarray(size, int).reshape(len(self.length), resources)
        self.corrected = semantics == "corrected"
        self.resources, self.units, self.window, self.slots, self.backlog_size = resources, units, window, slots, backlog
        self.colours = list(range(1, 40) if colours is None else colours)
        self.reset()

    def reset(self):
        """Empties the cluster; the job of index 0 arrives only in the corrected semantics."""
        self.time = 0
        self.since_arrival = 0
        self.done = False
        self.start = [WAITING] * len(self.length)
        self.free = np.full([self.window, self.resources], self.units)  # row t: the units free at `time + t`
        self.planned = []  # running jobs and those with a start in the window, in the order they were planned
        self.slot = [EMPTY] * self.slots
        self.backlog = []
        if self.corrected:
            self.arrive()

    @property
    def finished(self):
        """Another name of `done`."""
        return self.done

    def in_system(self):
        """The jobs that are planned, in a slot or in the backlog."""
        return self.planned + [job for job in self.slot if job != EMPTY] + self.backlog

    def finish(self, job):
        """The time at which a planned job ends."""
        return self.start[job] + self.length[job]

    def fits(self, job, t):
        """Whether every resource has room for the job in the rows `t` to `t + length - 1`."""
        end = t + self.length[job]
        return end <= self.window and bool(np.all(self.free[t:end] >= self.size[job]))

    def step(self, action):
        """Plans the job of a slot, at no cost in time, or lets one time step pass: `(reward, done)`."""
        if 0 <= action < self.slots and self.slot[action] != EMPTY and self.plan(self.slot[action]):
            self.slot[action] = self.backlog.pop(0) if self.backlog else EMPTY
            return 0.0, self.done
        if self.corrected:  # the step that passes is paid by the jobs that were there
            reward = self.cost()
            self.advance()
        else:  # paid by the jobs that are there afterwards
            self.advance()
            reward = self.cost()
        return reward, self.done

    def plan(self, job):
        """Places a job at its first possible start; False if there is none."""
        last = self.window - self.length[job]
        for t in range(last + 1 if self.corrected else last):  # the published loop misses the last start
            if self.fits(job, t):
                self.free[t : t + self.length[job]] -= self.size[job]
                self.start[job] = self.time + t
                self.planned.append(job)
                return True
        return False

    def cost(self):
        """Minus 1/length for each job in the system."""
        return float(sum(-1.0 / self.length[job] for job in self.in_system()))

    def advance(self):
        """One time step passes: finished jobs leave, then the job of the new time arrives."""
        self.time += 1
        self.since_arrival += 1
        self.free[:-1] = self.free[1:].copy()
        self.free[-1] = self.units
        self.leave()
        self.arrive()
        self.done = self.time >= len(self.length) and not self.in_system()

    def leave(self):
        """Removes the finished jobs; the published loop skips the job after each one that it removes."""
        i = 0
        while i < len(self.planned):
            if self.finish(self.planned[i]) <= self.time:
                del self.planned[i]
                if self.corrected:
                    continue
            i += 1

    def arrive(self):
        """The job of this time, if any, takes the first empty slot, else the end of the backlog, else it is dropped."""
        job = self.time
        if job >= len(self.length) or self.length[job] == 0:
            return
        self.since_arrival = 0
        if EMPTY in self.slot:
            self.slot[self.slot.index(EMPTY)] = job
        elif len(self.backlog) < self.backlog_size:
            self.backlog.append(job)
        else:
            self.start[job] = DROPPED

    def image(self):
        """The state as a picture [window, width]; one row is one time step, the first row is now."""
        blocks = []
        for resource in range(self.resources):
            blocks.append(self.canvas(resource))
            blocks.extend(self.request(job, resource) for job in self.slot)
        blocks.append(self.backlog_cells())
        blocks.append(np.full([self.window, 1], min(self.since_arrival, 10) / 10))
        return np.concatenate(blocks, axis=1)

    def canvas(self, resource):
        """The planned jobs in their colours; in each row a job lies to the right of those planned before it."""
        cells = np.zeros([self.window, self.units])
        used = [0] * self.window
        for job in self.planned:
            width = self.size[job, resource]
            for row in range(max(self.start[job] - self.time, 0), self.finish(job) - self.time):
                cells[row, used[row] : used[row] + width] = self.colours[job % 39] / 40
                used[row] += width
        return cells

    def request(self, job, resource):
        """What the job of one slot asks of one resource: ones, length by size, in the upper left corner."""
        cells = np.zeros([self.window, self.units])
        if job != EMPTY:
            cells[: self.length[job], : self.size[job, resource]] = 1.0
        return cells

    def backlog_cells(self):
        """One cell for each job in the backlog, filled row by row."""
        columns = -(-self.backlog_size // self.window)
        cells = np.zeros([self.window, columns])
        for i in range(len(self.backlog)):
            cells[i // columns, i % columns] = 1.0
        return cells


def sequences(count, steps, rate, seed):
    """The published random jobs, drawn in the published order: length [count, steps], size [count, steps, 2]."""
    random = np.random.RandomState(seed)
    length = np.zeros([count, steps], int)
    size = np.zeros([count, steps, 2], int)
    for i in range(count):
        for t in range(steps):
            if random.rand() < rate:
                length[i, t] = random.randint(1, 4) if random.rand() < 0.8 else random.randint(10, 16)
                dominant = random.randint(0, 2)
                for resource in range(2):
                    size[i, t, resource] = random.randint(5, 11) if resource == dominant else random.randint(1, 3)
    return length, size


def best_slot(env, score):
    """The slot of the highest score (the lowest such slot) among the jobs that can start now; to wait if there is none."""
    best, action = -np.inf, env.slots
    for i, job in enumerate(env.slot):
        if job != EMPTY and env.fits(job, 0):
            value = score(env, job)
            if value > best:
                best, action = value, i
    return action


def brevity(env, job):
    """1/length."""
    return 1.0 / env.length[job]


def alignment(env, job):
    """The inner product of the units that are free now and the units that the job asks for."""
    return float(np.dot(env.free[0], env.size[job]))


def sjf(env):
    """The shortest job first."""
    return best_slot(env, brevity)


def packer(env):
    """The job that is best aligned with the free units."""
    return best_slot(env, alignment)


def tetris(env):
    """Half alignment, as a fraction of 200 (the most that two resources of 10 units allow), and half brevity."""
    return best_slot(env, lambda env, job: 0.5 * alignment(env, job) / 200 + 0.5 * brevity(env, job))


def play(env, choose, limit=None):
    """One episode from where `env` is, of at most `limit` decisions: the total reward and the slowdowns of the finished jobs."""
    total, decisions = 0.0, 0
    while not env.done and (limit is None or decisions < limit):
        reward, _ = env.step(choose(env))
        total += reward
        decisions += 1
    finished = [job for job, start in enumerate(env.start) if start >= 0 and env.finish(job) <= env.time]
    return total, [(env.finish(job) - job) / env.length[job] for job in finished]
