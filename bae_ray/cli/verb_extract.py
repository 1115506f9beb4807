"""The verb `bae-ray extract`."""

from bae_ray.activations.config import ExtractConfig
from bae_ray.cli.parsing import report_failures
from bae_ray.storage import without_credentials


class ExtractCommand(ExtractConfig):
    """Run a language model over a corpus once and store the activations of every layer x site x position."""

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
        print(f"{command.model}: {check(command)}")
        return 0
    store = run(command, command.out)
    shown = command.model_copy(update={"out": without_credentials(command.out)})
    store.folder.write_text("extract.json", shown.model_dump_json(indent=2) + "\n")
    print(f"{len(store.cells)} cells of {store.manifest.n} x {store.manifest.d} in {store.folder}")
    return report_failures([str(failure) for failure in store.manifest.failed])
