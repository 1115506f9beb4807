"""The verb `bae-ray extract`."""

from bae_ray.activations.config import ExtractConfig
from bae_ray.cli.command import Command, Held
from bae_ray.cli.exit_codes import report_failures
from bae_ray.storage import without_credentials


class ExtractCommand(Command):
    """Run a language model over a corpus once and store the activations of every layer x site x position."""

    extraction: Held[ExtractConfig]
    """What to extract."""
    out: str
    """Folder of the activation store: a path, or a URI such as s3://bucket/folder. The same command on the same folder
    finishes an interrupted run."""
    check: bool = False
    """Only try the model on texts of the corpus: whether their vectors are the same alone and beside others, whole and
    cut, whatever follows."""


def extract(command: ExtractCommand) -> int:
    """Run `bae-ray extract`."""
    from bae_ray.activations.extract import check
    from bae_ray.activations.extract import extract as run

    if command.check:
        print(f"{command.extraction.model}: {check(command.extraction)}")
        return 0
    store = run(command.extraction, command.out)
    store.folder.write_text("extract.json", command.record(out=without_credentials(command.out)))
    print(f"{len(store.cells)} cells of {store.manifest.n} x {store.manifest.d} in {store.folder}")
    return report_failures([str(failure) for failure in store.manifest.failed])
