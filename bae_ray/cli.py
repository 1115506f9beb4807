"""The `bae-ray` command: one sub-command per step, each a thin call of the library."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import tyro
from pydantic import ValidationError

from bae_ray.activations.config import ExtractConfig
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.config import Config
from bae_ray.errors import BaeRayError, InvalidInputError
from bae_ray.files import write_text
from bae_ray.progress import track
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import SweepConfig

C = TypeVar("C", bound=Config)

EXIT_SOME_FAILED = 1
EXIT_INVALID = 2
EXIT_INTERRUPTED = 130


class ExtractCommand(ExtractConfig):
    """Run a language model over a corpus once and store the activations of every layer x position."""

    out: Path
    """Folder of the activation store. The same command on the same folder finishes an interrupted run."""


class TrainCommand(Config):
    """Train one autoencoder on one cell of an activation store."""

    store: Path
    """Activation store."""
    out: Path
    """Folder of runs; this one gets a directory named by the hash of its config."""
    layer: int
    """Layer of the cell."""
    position: int
    """Position of the cell."""
    site: str = "residual"
    """Site of the cell."""
    autoencoder: BAEConfig = BAEConfig()
    """Architecture."""
    training: TrainingConfig = TrainingConfig()
    """Training."""


class SweepCommand(SweepConfig):
    """Train a grid of autoencoders over the cells of an activation store. Finished runs are never trained again."""

    store: Path
    """Activation store."""
    out: Path
    """Folder of runs, a directory for each, and of results.parquet."""


class EntropyCommand(Config):
    """Write entropy.csv from the finished runs of a folder, and print it as a table."""

    runs: Path
    """Folder of runs."""
    out: Path = Path("entropy.csv")
    """The table's file."""


class ReportCommand(Config):
    """Write entropy.csv, entropy.png and report.html from the finished runs of a folder."""

    runs: Path
    """Folder of runs."""
    out: Path
    """Folder of the three files."""


def extract(command: ExtractCommand) -> int:
    """Run `bae-ray extract`."""
    from bae_ray.activations.extract import extract as run

    store = run(command, command.out)
    _save_config(command, command.out / "extract.json")
    print(f"{len(store.cells)} cells of {store.manifest.n} x {store.manifest.d} in {store.path}")
    return 0


def train(command: TrainCommand) -> int:
    """Run `bae-ray train`; needs no Ray."""
    from bae_ray.activations.store import ActivationStore, Cell
    from bae_ray.training.run import execute_run, plan_run

    store = ActivationStore.open(command.store)
    cell = Cell(command.layer, command.site, command.position)
    run = plan_run(store, cell, command.autoencoder, command.training)
    with track("Training", command.training.epochs) as tracker:
        result = execute_run(run, store, command.out, on_epoch=lambda _: tracker.advance())
    print(
        f"{result.entropy_bits:.1f} bits, FVU {result.fvu_train:.3f} on training and {result.fvu_val:.3f} on held-out "
        f"texts: {command.out / run.id}"
    )
    return 0


def sweep(command: SweepCommand) -> int:
    """Run `bae-ray sweep`."""
    from bae_ray.activations.store import ActivationStore
    from bae_ray.training.sweep import RESULTS_FILE
    from bae_ray.training.sweep import sweep as run

    outcome = run(command, ActivationStore.open(command.store), command.out)
    _save_config(command, command.out / "sweep.json")
    print(f"{outcome.trained} runs trained, {len(outcome.failures)} failed.")
    if outcome.finished:
        print(command.out / RESULTS_FILE)
    return report_failures(outcome.failures)


def entropy(command: EntropyCommand) -> int:
    """Run `bae-ray entropy`."""
    from bae_ray.report.tables import print_entropies
    from bae_ray.training.results import entropy_table, results, write_csv

    table = results(command.runs)
    write_csv(entropy_table(table), command.out)
    print_entropies(table)
    print(command.out)
    return 0


def report(command: ReportCommand) -> int:
    """Run `bae-ray report`."""
    from bae_ray.report.entropy import report_entropies

    report_entropies(command.runs, command.out)
    return 0


def report_failures(failures: list[str]) -> int:
    """Print what failed; the exit code that says so."""
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return EXIT_SOME_FAILED if failures else 0


VERBS: dict[str, Callable[..., int]] = {
    "extract": extract,
    "train": train,
    "sweep": sweep,
    "entropy": entropy,
    "report": report,
}
COMMANDS: dict[str, type[Config]] = {
    "extract": ExtractCommand,
    "train": TrainCommand,
    "sweep": SweepCommand,
    "entropy": EntropyCommand,
    "report": ReportCommand,
}


def parse(command: type[C], prog: str, arguments: list[str], default: C | None = None) -> C:
    """A config from command-line arguments; `--config FILE` gives the values that the others then change."""
    arguments, file = _take_config_file(arguments)
    if file is not None:
        default = _read_config(command, file)
    description = (
        f"{command.__doc__}\n\n--config FILE replays the JSON config of an earlier run; other flags change it."
    )
    parsed = tyro.cli(command, prog=prog, args=arguments, default=default, description=description)
    return cast(C, parsed)


def parse_preset(presets: dict[str, C], prog: str, arguments: list[str]) -> C:
    """A job's config: the preset that the first argument names, with the other arguments' changes."""
    name = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if name in presets:
        return parse(type(presets[name]), f"{prog} {name}", arguments[1:], presets[name])
    if not name and {"-h", "--help"} & set(arguments):
        first = next(iter(presets))
        return parse(type(presets[first]), f"{prog} {first}", arguments, presets[first])
    given = f"preset '{name}' is not known" if name else "no preset is given"
    raise InvalidInputError(f"{given}: begin with one of {', '.join(presets)}.")


def run_safely(main: Callable[[], int]) -> int:
    """Call `main`; an error that bae_ray raised on purpose is printed and becomes an exit code."""
    try:
        return main()
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept, and the same command goes on from there.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        print(f"error: {error}. Check the path, its permissions and the free space.", file=sys.stderr)
        return EXIT_INVALID
    except BaeRayError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INVALID
    except ValidationError as error:
        for problem in error.errors():
            field = "-".join(str(part) for part in problem["loc"]).replace("_", "-")
            print(f"error: --{field} is {problem['input']!r}: {problem['msg']}.", file=sys.stderr)
        return EXIT_INVALID


def main() -> None:
    """Entry point of `bae-ray`."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in VERBS:
        print("usage: bae-ray VERB [options]\n\nverbs:")
        for verb, command in COMMANDS.items():
            print(f"  {verb:8} {(command.__doc__ or '').splitlines()[0]}")
        print("\n'bae-ray VERB --help' lists a verb's options.")
        unknown = bool(arguments) and arguments[0] not in ("-h", "--help")
        if unknown:
            print(f"error: '{arguments[0]}' is not a verb; expected one of {', '.join(VERBS)}.", file=sys.stderr)
        sys.exit(EXIT_INVALID if unknown else 0)
    verb, rest = arguments[0], arguments[1:]
    sys.exit(run_safely(lambda: VERBS[verb](parse(COMMANDS[verb], f"bae-ray {verb}", rest))))


def _take_config_file(arguments: list[str]) -> tuple[list[str], Path | None]:
    for i, argument in enumerate(arguments):
        if argument == "--config":
            if i + 1 == len(arguments):
                raise InvalidInputError("--config needs a file.")
            return arguments[:i] + arguments[i + 2 :], Path(arguments[i + 1])
        if argument.startswith("--config="):
            return arguments[:i] + arguments[i + 1 :], Path(argument.removeprefix("--config="))
    return arguments, None


def _read_config(command: type[C], file: Path) -> C:
    try:
        return command.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"--config {file} cannot be read: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InvalidInputError(f"--config {file}: {where}: {first['msg']}.") from error


def _save_config(command: Config, file: Path) -> None:
    write_text(file, command.model_dump_json(indent=2) + "\n")
