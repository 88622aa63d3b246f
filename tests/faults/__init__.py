"""What breaks, provoked: `make faults`."""


class NotRunError(Exception):
    """A check that needs what is not there."""
