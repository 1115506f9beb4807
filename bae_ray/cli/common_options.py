"""Options that every command and every job takes, anywhere: each is a variable of the environment, which they set."""

import os

from bae_ray.chatter import DASHBOARD, DEBUG
from bae_ray.errors import InvalidInputError
from bae_ray.structured_log import FORMAT, FORMATS

FLAGS = {"--debug": DEBUG, "--dashboard": DASHBOARD}
LOG_FORMAT_FLAG = "--log-format"
HELP = (
    "--debug, or BAE_RAY_DEBUG=1, prints tracebacks of errors and all messages of libraries. --log-format json, or "
    "BAE_RAY_LOG_FORMAT=json, writes the log (standard error) as a JSON object per line. --dashboard, or "
    "BAE_RAY_DASHBOARD=1, opens the dashboard of a Ray that starts here, and prints its address."
)


def take_common(arguments: list[str]) -> None:
    """Take them out of the arguments of a process. Raises `InvalidInputError` for a format that there is not."""
    for flag, variable in FLAGS.items():
        if flag in arguments:
            arguments.remove(flag)
            os.environ[variable] = "1"
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == LOG_FORMAT_FLAG:
            value = value if equals else "".join(arguments[i + 1 : i + 2])
            del arguments[i : i + (1 if equals else 2)]
            os.environ[FORMAT] = value
            break
    if (given := os.environ.get(FORMAT, FORMATS[0])) not in FORMATS:
        raise InvalidInputError(f"{LOG_FORMAT_FLAG} is '{given}'; expected one of {', '.join(FORMATS)}.")


def given_here() -> dict[str, str]:
    """Those that are set, for a command that runs elsewhere; the dashboard is for here."""
    return {name: os.environ[name] for name in (DEBUG, FORMAT) if name in os.environ}
