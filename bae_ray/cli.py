"""The `bae-ray` command: one sub-command per step, each a thin call of the library."""

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

import tyro
from pydantic import Field, ValidationError

from bae_ray.activations.config import ExtractConfig
from bae_ray.autoencoders.config import ARCHITECTURES, ArchitectureConfig, AutoencoderConfig, BAEConfig
from bae_ray.autoencoders.interop import Format, Kind
from bae_ray.config import Config, describe
from bae_ray.errors import BaeRayError, InvalidInputError
from bae_ray.files import write_text
from bae_ray.progress import track
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import SweepConfig

C = TypeVar("C", bound=Config)

ARCHITECTURE_OPTION = re.compile(r"([\w-]+\.)*autoencoder\.architecture")
"""It decides which other options there are, so it is read before them."""

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
    autoencoder: AutoencoderConfig = BAEConfig()
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


class ExportCommand(Config):
    """Write a saved autoencoder as a folder of SAELens, its normalisation folded into the weights."""

    source: str
    """Folder of the autoencoder, for example of a run, or its id on the Hugging Face hub."""
    out: Path
    """Folder to write, as sae_lens.SAE.load_from_disk reads it."""
    layer: int | None = Field(default=None, ge=0)
    """Layer l of the activations, hidden_states[l]: written into the metadata as the hook blocks.l.hook_resid_pre."""
    hook_name: str | None = None
    """TransformerLens' name of the activations, in place of a layer."""
    model_name: str | None = None
    """TransformerLens' name of the language model, for the metadata."""


class ImportCommand(Config):
    """Save an autoencoder of SAELens, sparsify or the paper's released code as one of bae_ray's."""

    source: Path
    """Folder of SAELens or sparsify, or file of the released code (.pt, .pth, .bin or .safetensors)."""
    format: Format
    """What wrote it."""
    out: Path
    """Folder of the autoencoder."""
    kind: Kind | None = None
    """Format release: which autoencoder it is. Left out: what experiment_params.txt beside it says, else bae."""
    k: int | None = None
    """Format release, kind topk: latents kept per sample, by default 10."""
    threshold: float | None = None
    """Format release, kind jumprelu: the fixed threshold, by default 0.5."""


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
        result = execute_run(run, store, command.out, on_epoch=tracker.reach)
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


def export(command: ExportCommand) -> int:
    """Run `bae-ray export`."""
    from bae_ray.autoencoders import load_autoencoder
    from bae_ray.autoencoders.interop import export_saelens
    from bae_ray.autoencoders.interop.saelens import CONFIG_FILE

    hook_name = command.hook_name
    if command.layer is not None:
        if hook_name is not None:
            raise InvalidInputError(f"--layer {command.layer} and --hook-name {hook_name} are both given: give one.")
        hook_name = f"blocks.{command.layer}.hook_resid_pre"
    _require_free(command.out, CONFIG_FILE)
    with _printed_warnings():
        export_saelens(load_autoencoder(command.source), command.out, command.model_name, hook_name)
    print(command.out)
    return 0


def import_(command: ImportCommand) -> int:
    """Run `bae-ray import`."""
    from bae_ray.autoencoders.base import CONFIG_FILE
    from bae_ray.autoencoders.interop import import_autoencoder

    _require_free(command.out, CONFIG_FILE)
    with _printed_warnings():
        autoencoder = import_autoencoder(command.source, command.format, command.kind, command.k, command.threshold)
    autoencoder.save_pretrained(command.out)
    print(f"{autoencoder.config.model_dump_json()} in {command.out}")
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
    "export": export,
    "import": import_,
}
COMMANDS: dict[str, type[Config]] = {
    "extract": ExtractCommand,
    "train": TrainCommand,
    "sweep": SweepCommand,
    "entropy": EntropyCommand,
    "report": ReportCommand,
    "export": ExportCommand,
    "import": ImportCommand,
}


def parse(command: type[C], prog: str, arguments: list[str], default: C | None = None) -> C:
    """A config from command-line arguments; `--config FILE` gives the values that the others then change."""
    arguments, _, file = _take_option(arguments, re.compile("config"))
    if file is not None:
        default = _read_config(command, Path(file))
    arguments, path, architecture = _take_option(arguments, ARCHITECTURE_OPTION)
    if architecture is not None:
        default = _with_architecture(default or command.model_construct(), path.split(".")[:-1], architecture)
    description = (
        f"{command.__doc__}\n\n--config FILE replays the JSON config of an earlier run; other flags change it."
    )
    parsed = tyro.cli(
        command,
        prog=prog,
        args=arguments,
        default=default,
        description=description,
        config=(tyro.conf.AvoidSubcommands,),  # an architecture's options stand among the others, not behind a word
    )
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


def _take_option(arguments: list[str], name: re.Pattern[str]) -> tuple[list[str], str, str | None]:
    """The arguments without the option --NAME VALUE, the option's full name, and its value; None where it is not."""
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if not option.startswith("--") or not name.fullmatch(option[2:]):
            continue
        if equals:
            return arguments[:i] + arguments[i + 1 :], option[2:], value
        if i + 1 == len(arguments):
            raise InvalidInputError(f"{option} needs a value.")
        return arguments[:i] + arguments[i + 2 :], option[2:], arguments[i + 1]
    return arguments, "", None


def _with_architecture(config: C, path: list[str], name: str) -> C:
    """The config with another architecture at `path`, with its own defaults; what both have in common is kept."""
    field = path[0]
    if field not in type(config).model_fields:
        raise InvalidInputError(f"{field} is not an option here: --help lists the options.")
    value = getattr(config, field)
    if len(path) > 1:
        changed = _with_architecture(value, path[1:], name)
    elif name in ARCHITECTURES:
        common = {key: kept for key, kept in value.model_dump().items() if key in ArchitectureConfig.model_fields}
        changed = ARCHITECTURES[name].model_validate(common)
    else:
        raise InvalidInputError(f"architecture '{name}' is not known; expected one of {', '.join(ARCHITECTURES)}.")
    return config.model_copy(update={field: changed})


def _read_config(command: type[C], file: Path) -> C:
    try:
        return command.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"--config {file} cannot be read: {error}.") from error
    except ValidationError as error:
        raise InvalidInputError(f"--config {file}: {describe(error)}.") from error


def _require_free(folder: Path, file: str) -> None:
    """Raise `InvalidInputError` where `folder` already holds an autoencoder, whose config is `file`."""
    if (folder / file).exists():
        raise InvalidInputError(f"--out {folder} already holds a {file}: give a folder that is empty or new.")


@contextmanager
def _printed_warnings() -> Iterator[None]:
    """Print the warnings inside as messages of the command, without Python's line numbers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)


def _save_config(command: Config, file: Path) -> None:
    write_text(file, command.model_dump_json(indent=2) + "\n")
