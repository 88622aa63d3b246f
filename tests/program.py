"""The program, called as a user calls it, in this process: exit code, standard output and standard error."""

import sys

import run


def call(capfd, *arguments):
    before, sys.argv = sys.argv, ["run.py", *map(str, arguments)]
    try:
        run.main()
    except SystemExit as end:
        out, err = capfd.readouterr()
        return end.code, out, err
    finally:
        sys.argv = before
