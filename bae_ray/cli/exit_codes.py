"""Exit codes, and the errors that they stand for."""

import os
import select
import sys
import traceback
from collections.abc import Callable

from pydantic import ValidationError

from bae_ray.chatter import debugging, quieten
from bae_ray.cli.common_options import take_common
from bae_ray.errors import BaeRayError, InvalidInputError, UnfinishedError
from bae_ray.locations import with_locations
from bae_ray.structured_log import log_as_asked
from bae_ray.system_errors import explain

EXIT_SOME_FAILED = 1
"""Units of the work (shards, runs, parts, features) failed, or it stopped. The same command goes on."""
EXIT_INVALID = 2
"""Invalid input: nothing was begun."""
EXIT_LOST = 75
"""The log of a job on a cluster broke off, and the job may go on: sysexits' EX_TEMPFAIL."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""The shell's exit code of a process that SIGPIPE ends."""


def run_safely(main: Callable[[], int]) -> int:
    """Call `main`. An error that the user can correct is printed, and becomes an exit code.

    With --debug its traceback is printed too; see `common_options`.
    """
    try:
        take_common(sys.argv)
    except InvalidInputError as error:
        return _refuse(str(error))
    quieten()
    with log_as_asked():
        return _run_to_pipe(main)


def _run_to_pipe(main: Callable[[], int]) -> int:
    try:
        return _run(main)
    except BrokenPipeError as error:
        if not _unread(sys.stdout.fileno()):
            return _refuse(explain(error))
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def report_failures(failures: list[str]) -> int:
    """Print every failure. Returns the exit code."""
    for failure in failures:
        print(f"failed: {with_locations(failure)}", file=sys.stderr)
    return EXIT_SOME_FAILED if failures else 0


def _run(main: Callable[[], int]) -> int:
    try:
        code = main()
        sys.stdout.flush()  # raises BrokenPipeError here, while it can be handled
        return code
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept, and the same command goes on from there.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        return _refuse(explain(error))
    except BaeRayError as error:
        return _refuse(str(error), EXIT_SOME_FAILED if isinstance(error, UnfinishedError) else EXIT_INVALID)
    except ValidationError as error:
        _show_traceback()
        for problem in error.errors():
            field = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"error: --{field} is {problem['input']!r}: {problem['msg']}.", file=sys.stderr)
        return EXIT_INVALID


def _unread(file: int) -> bool:
    """Whether the file is a pipe whose reader (such as `head`) has closed it."""
    poll = select.poll()
    poll.register(file, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _refuse(message: str, code: int = EXIT_INVALID) -> int:
    _show_traceback()
    print(f"error: {with_locations(message)}", file=sys.stderr)
    return code


def _show_traceback() -> None:
    if debugging():
        traceback.print_exc()
