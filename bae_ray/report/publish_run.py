"""A finished run as others get it: a folder, or a repository of the Hugging Face hub, with a model card."""

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bae_ray.autoencoders.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from bae_ray.autoencoders.hub import upload
from bae_ray.autoencoders.tree_file import TREE_FILE
from bae_ray.errors import InvalidInputError
from bae_ray.files import at_hand, read_text
from bae_ray.report.model_card import CARD_FILE, Origin, model_card
from bae_ray.report.published_cards import CARDS_FILE
from bae_ray.training.config import RunConfig
from bae_ray.training.run_fidelity import FIDELITY_FILE
from bae_ray.training.run_folder import RESULT_FILE, RUN_FILE, RunResult

NEEDED = (CONFIG_FILE, WEIGHTS_FILE, RUN_FILE, RESULT_FILE)
OPTIONAL = (TREE_FILE, FIDELITY_FILE, CARDS_FILE)
HUB = "hf://"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Destination(NamedTuple):
    """Where a run goes."""

    name: str
    """Id of a repository on the hub, or the path of a folder."""
    on_hub: bool


def destination(to: str) -> Destination:
    """What is meant by a hub id or a folder.

    OWNER/NAME is an id, and hf:// before it says so; a path that begins with . or / is none.

    Raises `InvalidInputError` where it may be either, or is neither.
    """
    name = to.removeprefix(HUB)
    if name != to:
        if not HUB_ID.fullmatch(name):
            raise InvalidInputError(f"--to {to} is no id of the Hugging Face hub: expected {HUB}OWNER/NAME.")
        return Destination(name, on_hub=True)
    if "://" in to:
        raise InvalidInputError(f"--to {to} is a URI; expected a folder of this machine, or OWNER/NAME on the hub.")
    if not HUB_ID.fullmatch(to):
        return Destination(to, on_hub=False)
    if Path(to).parent.exists():
        raise InvalidInputError(
            f"--to {to} may be a folder here or an id of the Hugging Face hub: give ./{to} or {HUB}{to}."
        )
    return Destination(to, on_hub=True)


def read_run(folder: Path) -> tuple[RunConfig, RunResult]:
    """Config and result of a finished run. Raises `InvalidInputError` for any other folder."""
    for name in NEEDED:
        if not (folder / name).exists() and not at_hand(folder / name).exists():
            begun = (folder / RUN_FILE).exists()
            todo = "The command that trained it goes on with it" if begun else "Give the folder of one, RUNS/ID"
            raise InvalidInputError(f"{folder} is no finished run: {name} is missing. {todo}.")
    return (
        RunConfig.model_validate_json(read_text(folder / RUN_FILE)),
        RunResult.model_validate_json(read_text(folder / RESULT_FILE)),
    )


def publish_run(
    folder: Path,
    to: Destination,
    origin: Origin,
    model: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> str:
    """Put a finished run and its model card there; the folder, or the address of the commit.

    What is published is read by `load_autoencoder`, and by the service's registry. `model`: what others call the
    language model, in place of its name in the run's result.

    Raises `InvalidInputError` for a folder that is no finished run or that holds something else, `HubError` where the
    hub refuses.
    """
    run, result = read_run(folder)
    if not to.on_hub:
        _check_free(Path(to.name), run)
    with TemporaryDirectory() as scratch:
        staged = Path(scratch)
        for name in (*NEEDED, *OPTIONAL):
            file = at_hand(folder / name)
            if file.exists():
                shutil.copyfile(file, staged / name)
        if model:
            result = result.model_copy(update={"model": model})
            (staged / RESULT_FILE).write_text(result.to_json(), encoding="utf-8")
        load_as = to.name if to.on_hub else Path(to.name).name
        (staged / CARD_FILE).write_text(model_card(staged, run, result, origin, load_as), encoding="utf-8")
        if to.on_hub:
            return upload(staged, to.name, f"Publish run {run.id}", private=private, revision=revision)
        target = Path(to.name)
        target.mkdir(parents=True, exist_ok=True)
        for name in OPTIONAL:  # of an earlier publication
            (target / name).unlink(missing_ok=True)
        for file in sorted(staged.iterdir(), key=lambda file: file.name == RESULT_FILE):  # which makes it finished
            shutil.copyfile(file, target / file.name)
        return str(target)


def _check_free(target: Path, run: RunConfig) -> None:
    """Raise `InvalidInputError` unless the folder is new, empty, or this run's own from before."""
    if target.exists() and not target.is_dir():
        raise InvalidInputError(f"--to {target} is a file; expected a folder that is new or empty.")
    if not target.exists() or not any(target.iterdir()):
        return
    known = target / RUN_FILE
    if known.is_file() and (target / CARD_FILE).is_file():
        before = RunConfig.model_validate_json(read_text(known))
        if before.id == run.id:
            return
        raise InvalidInputError(
            f"--to {target} holds the run {before.id}, this is {run.id}: give another folder, or delete that one."
        )
    raise InvalidInputError(
        f"--to {target} holds other files, which stay as they are: give a folder that is new or empty, or one into "
        "which this run was published before."
    )
