"""What checks have in common."""


class NotRunError(Exception):
    """A check that needs what is not there."""
