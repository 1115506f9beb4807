"""The verb `bae-ray publish`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from bae_ray.activations.bundled import BUNDLED_MODEL, BUNDLED_MODEL_HUB_ID
from bae_ray.cli.command import Command
from bae_ray.errors import InvalidInputError
from bae_ray.locations import Place, shown

if TYPE_CHECKING:
    from bae_ray.activations.store import ActivationStore
    from bae_ray.training.config import RunConfig


class PublishCommand(Command):
    """Write a trained autoencoder and its model card to a folder or the hub: bae-ray publish RUN --to WHERE.

    The card states bits, FVU, fidelity, how reliable the judge is, training data and licence, as far as they are known.
    Run `bae-ray fidelity` and `bae-ray comsem` first to have their measures in it. For the hub, set the token HF_TOKEN
    or use `hf auth login`.
    """

    run: Place
    """Folder of a finished run, RUNS/ID, here or at a URI. --run may be omitted if the folder comes first."""
    to: str
    """OWNER/NAME on the hub (or hf://OWNER/NAME), or a new or empty folder, as ./NAME."""
    licence: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9.+-]*$")
    """Licence of the weights, by the hub's abbreviation, such as apache-2.0. None: the card says that no licence is
    stated."""
    base_model: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    """The language model's id on the hub, for the card. Set it if the run took the model from a local folder. None: the
    run's own name for it."""
    store: str | None = None
    """Activation store that it was trained on, which names the corpus. None: the store in the sweep.json beside the
    run, or the folder `store` beside the sweep, if the run was trained on it."""
    private: bool | None = None
    """Whether a new repository is private. None: as the owner's settings say."""
    revision: str | None = None
    """Branch of the hub's repository. None: main."""


def publish(command: PublishCommand) -> None:
    """Run `bae-ray publish`."""
    from bae_ray.autoencoders.checkpoint import WEIGHTS_FILE
    from bae_ray.autoencoders.tree_file import TREE_FILE
    from bae_ray.report.model_card import Origin
    from bae_ray.report.publish_run import destination, publish_run, read_run
    from bae_ray.working_copies import reading

    to = destination(command.to)
    if not to.on_hub and (command.private is not None or command.revision is not None):
        raise InvalidInputError(
            f"--private and --revision are for the hub, and --to {command.to} is a folder. Leave them out."
        )
    folder = reading(command.run, large={WEIGHTS_FILE, TREE_FILE}.__contains__)
    run, result = read_run(folder)
    corpus, texts = _corpus(_store(command, folder, run))
    base = command.base_model or (BUNDLED_MODEL_HUB_ID if result.model == BUNDLED_MODEL else _hub_id(result.model))
    origin = Origin(corpus, texts, command.licence, base)
    print(publish_run(folder, to, origin, command.base_model, command.private, command.revision))


def _hub_id(model: str) -> str | None:
    """The run's name of its language model if it can be an id on the hub: of one word and one slash, and no folder."""
    from bae_ray.report.publish_run import HUB_ID

    return model if HUB_ID.fullmatch(model) and not Path(model).exists() else None


def _store(command: PublishCommand, folder: Path, run: "RunConfig") -> "ActivationStore | None":
    """The store that a run was trained on: the given one, which must be, or one that lies near and is."""
    from bae_ray.activations.store import ActivationStore
    from bae_ray.errors import BaeRayError
    from bae_ray.training.grid import check_trained_on

    if command.store is not None:
        store = ActivationStore.open(command.store)
        check_trained_on(run, folder, store)
        return store
    record = folder.parent / "sweep.json"
    named = [json.loads(record.read_text(encoding="utf-8"))["store"]] if record.is_file() else []
    for near in (*named, shown(folder.parent.parent / "store")):
        try:
            store = ActivationStore.open(near)
            check_trained_on(run, folder, store)
        except (BaeRayError, OSError):  # it is gone, or another one: the card says that the corpus is not known
            continue
        return store
    return None


def _corpus(store: "ActivationStore | None") -> tuple[str | None, int | None]:
    """What the store's texts are of, in words, and how many it has vectors of."""
    if store is None:
        return None, None
    told = store.manifest.request.input
    corpus = told.get("corpus") or {}
    if "files" in corpus:
        name = ", ".join(str(file) for file, _ in corpus["files"])
    elif "name" in corpus:
        subset = f" {corpus['subset']}" if corpus.get("subset") else ""
        name = f"{corpus['name']}{subset}, {corpus['split']}, at {corpus['commit']}"
    else:
        name = "none"
    return f"{name} ({told['kind']})", store.manifest.texts
