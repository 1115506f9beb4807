"""The `bae-ray` command: one sub-command per step, each a thin call of the library."""

import sys
from collections.abc import Callable

from bae_ray.cli import codec, commands, judge, stores
from bae_ray.cli import comsem as comsem_commands
from bae_ray.cli import serve as serving
from bae_ray.cli.commands import report_failures as report_failures
from bae_ray.cli.parsing import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from bae_ray.cli.parsing import EXIT_INVALID as EXIT_INVALID
from bae_ray.cli.parsing import EXIT_SOME_FAILED as EXIT_SOME_FAILED
from bae_ray.cli.parsing import parse as parse
from bae_ray.cli.parsing import parse_preset as parse_preset
from bae_ray.cli.parsing import run_safely as run_safely
from bae_ray.config import Config
from bae_ray.names import nearest

VERBS: dict[str, Callable[..., int]] = {
    "extract": commands.extract,
    "store info": stores.info,
    "store verify": stores.verify,
    "store export": stores.export,
    "train": commands.train,
    "sweep": commands.sweep,
    "watch": commands.watch,
    "entropy": commands.entropy,
    "report": commands.report,
    "compress": codec.compress,
    "decompress": codec.decompress,
    "comsem": comsem_commands.comsem,
    "judge serve": judge.judge_serve,
    "judge check": judge.judge_check,
    "export": commands.export,
    "import": commands.import_,
    "serve": serving.serve,
}
COMMANDS: dict[str, type[Config]] = {
    "extract": commands.ExtractCommand,
    "store info": stores.InfoCommand,
    "store verify": stores.VerifyCommand,
    "store export": stores.ExportStoreCommand,
    "train": commands.TrainCommand,
    "sweep": commands.SweepCommand,
    "watch": commands.WatchCommand,
    "entropy": commands.EntropyCommand,
    "report": commands.ReportCommand,
    "compress": codec.CompressCommand,
    "decompress": codec.DecompressCommand,
    "comsem": comsem_commands.ComSemCommand,
    "judge serve": judge.JudgeServeCommand,
    "judge check": judge.JudgeCheckCommand,
    "export": commands.ExportCommand,
    "import": commands.ImportCommand,
    "serve": serving.ServeCommand,
}


def main() -> None:
    """Entry point of `bae-ray`."""
    sys.exit(run_safely(_main))


def _main() -> int:
    arguments = sys.argv[1:]
    verb = next((verb for verb in VERBS if arguments[: len(verb.split())] == verb.split()), None)
    if verb is None:
        print("usage: bae-ray VERB [options]\n\nverbs:")
        for known, command in COMMANDS.items():
            print(f"  {known:12} {(command.__doc__ or '').splitlines()[0]}")
        print("\n'bae-ray VERB --help' lists a verb's options.")
        unknown = bool(arguments) and arguments[0] not in ("-h", "--help")
        if unknown:
            given = " ".join(arguments[:2]) if arguments[0] in ("store", "judge") else arguments[0]
            expected = f"expected one of {', '.join(VERBS)}.{nearest(given, VERBS)}"
            print(f"error: '{given}' is not a verb; {expected}", file=sys.stderr)
        return EXIT_INVALID if unknown else 0
    rest = arguments[len(verb.split()) :]
    return VERBS[verb](parse(COMMANDS[verb], f"bae-ray {verb}", rest))
