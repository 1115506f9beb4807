"""The `bae-ray` command: one sub-command per step, each a thin call of the library."""

import sys

from bae_ray.cli.exit_codes import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from bae_ray.cli.exit_codes import EXIT_INVALID as EXIT_INVALID
from bae_ray.cli.exit_codes import EXIT_SOME_FAILED as EXIT_SOME_FAILED
from bae_ray.cli.exit_codes import report_failures as report_failures
from bae_ray.cli.exit_codes import run_safely as run_safely
from bae_ray.cli.parsing import parse as parse
from bae_ray.cli.verbs import VERBS as VERBS
from bae_ray.names import nearest


def main() -> None:
    """Entry point of `bae-ray`."""
    sys.exit(run_safely(_main))


def _main() -> int:
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from bae_ray.version import __version__

        print(f"bae_ray {__version__}")
        return 0
    verb = next((verb for verb in VERBS if arguments[: len(verb.split())] == verb.split()), None)
    if verb is None:
        print("usage: bae-ray VERB [options]\n\nverbs:")
        for name, known in VERBS.items():
            print(f"  {name:12} {known.summary}")
        print("\n'bae-ray VERB --help' lists a verb's options; 'bae-ray --version' tells the version.")
        unknown = bool(arguments) and arguments[0] not in ("-h", "--help")
        if unknown:
            words = 2 if any(name.startswith(f"{arguments[0]} ") for name in VERBS) else 1
            given = " ".join(arguments[:words])
            expected = f"expected one of {', '.join(VERBS)}.{nearest(given, VERBS)}"
            print(f"error: '{given}' is not a verb; {expected}", file=sys.stderr)
        return EXIT_INVALID if unknown else 0
    rest = arguments[len(verb.split()) :]
    command, run = VERBS[verb].load()
    if not VERBS[verb].takes_job:
        return run(parse(command, f"bae-ray {verb}", VERBS[verb].named(rest))) or 0
    own, job = VERBS[verb].split(rest)
    return run(parse(command, f"bae-ray {verb}", own), job) or 0
