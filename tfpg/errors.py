"""The exceptions that a user is meant to see: one sentence each, without a traceback."""


class UsageError(ValueError):
    """A mistake in what the user asked for, as one sentence that names the flag, its value and what is allowed."""


class EnvironmentFault(RuntimeError):
    """An environment gave what no environment may give: which one, at which step, which field, which value."""


class RunFault(RuntimeError):
    """A run directory cannot be read or written: which file, and why."""


class Misfit(RunFault):
    """A checkpoint is whole, but of another network or algorithm than the run's flags describe."""


class Stopped(BaseException):
    """A signal came while nothing had to be saved any more."""
