"""What libraries say that is not for the user; BAE_RAY_DEBUG=1, or --debug, lets them talk."""

import logging
import os

DEBUG = "BAE_RAY_DEBUG"
ERRORS_ALONE = ("ray._private.authentication", "ray.data", "ray.tune.analysis.experiment_analysis")
"""Loggers of which only errors are shown."""
NOTHING = ("ray.tune.execution", "ray.tune.tune")
"""Loggers that repeat, with tracebacks, what the table of outcomes says of each run."""


def debugging() -> bool:
    """Whether the user asked for tracebacks and for all that libraries say."""
    return os.environ.get(DEBUG, "") not in ("", "0")


def quieten() -> None:
    """Silence in this process, and in those that it starts, what is not for the user; errors stay."""
    if debugging():
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # no dump of the stack at SIGTERM
    # Ray's core logs a line of C++ at each start of an extraction, as an error. `putenv` is for this process alone:
    # the processes that Ray starts take `os.environ`, and go on writing their log files.
    if "RAY_BACKEND_LOG_LEVEL" not in os.environ:
        os.putenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ERRORS_ALONE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in NOTHING:
        logging.getLogger(name).setLevel(logging.CRITICAL)
