"""Hiding messages of libraries that are not for the user; BAE_RAY_DEBUG=1, or --debug, shows them."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

DEBUG = "BAE_RAY_DEBUG"
DASHBOARD = "BAE_RAY_DASHBOARD"
"""Whether a Ray that starts here has its dashboard."""
ERRORS_ALONE = ("ray._private.authentication", "ray.data", "ray.tune.analysis.experiment_analysis")
"""Loggers of which only errors are shown."""
NOTHING = ("ray.tune.execution", "ray.tune.tune")
"""Loggers that repeat, with tracebacks, what the table of outcomes says of each run."""


CORE_LEVEL = "RAY_BACKEND_LOG_LEVEL"
STDERR = 2


def debugging() -> bool:
    """Whether the user asked for tracebacks and for all that libraries say."""
    return is_set(DEBUG)


def is_set(variable: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(variable, "") not in ("", "0")


def quieten() -> None:
    """Hide messages that are not for the user, in this process and those that it starts; errors stay."""
    if debugging():
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # no dump of the stack at SIGTERM
    for name in ERRORS_ALONE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in NOTHING:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def quiet_core() -> Iterator[None]:
    """Connect to Ray inside: its core then keeps its errors, of which each extraction gives one, out of the terminal.

    They are for Ray's developers, and what they are about comes as an exception too. What is written to the standard
    error inside is passed on at the end, but for the core's word that it is quiet.
    """
    if debugging() or CORE_LEVEL in os.environ:
        yield
        return
    os.putenv(CORE_LEVEL, "fatal")  # for this process: those that Ray starts take `os.environ`, and go on logging
    sys.stderr.flush()
    terminal = os.dup(STDERR)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, STDERR)
            os.close(terminal)
            held.seek(0)
            for line in held:
                if CORE_LEVEL.encode() not in line:
                    os.write(STDERR, line)
