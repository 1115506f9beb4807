"""A method that ComSem has scored, by its folder: its autoencoder, evaluation set and features."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.cluster_controls import FEWEST
from bae_ray.autoencoders.architectures import find_architecture
from bae_ray.autoencoders.checkpoint import CONFIG_FILE as AUTOENCODER_CONFIG
from bae_ray.autoencoders.hub import fetched
from bae_ray.comsem.config import RANDOM, ComSemConfig
from bae_ray.comsem.evaluation import find_methods
from bae_ray.comsem.summary import CONFIG_FILE, FEATURES_FILE, STORE_FOLDER, SUMMARY_FILE
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.feature_shape.selected_tokens import Subject
from bae_ray.files import read_text
from bae_ray.working_copies import refresh


def check_features(features: Sequence[int], n: int) -> None:
    """Raise `InvalidInputError` where there are no features, one is named twice, or is not among n."""
    if not features:
        raise InvalidInputError("features is empty: name some, or leave it out for those of high and low score.")
    if twice := [feature for feature in features if features.count(feature) > 1]:
        raise InvalidInputError(f"features names {twice[0]} twice: name each once.")
    if beyond := [feature for feature in features if feature >= n]:
        raise InvalidInputError(f"features names {beyond[0]}, but the autoencoder has {n}: expected 0 to {n - 1}.")


def check_scored(folder: Path, features: Sequence[int] | None) -> None:
    """Raise `InvalidInputError` where a folder is not ComSem's of a method, or lacks what it was made of.

    No model is loaded. `features` that are out of range, or active on too few tokens, are named.
    """
    refresh(folder.parent)
    for file in (folder / FEATURES_FILE, folder.parent / SUMMARY_FILE, folder.parent / CONFIG_FILE):
        if not file.is_file():
            raise InvalidInputError(
                f"scored is {folder}, but {file} is not there: give OUT/METHOD of a finished 'bae-ray comsem --out "
                "OUT', or of another job's folder comsem."
            )
    subject = open_scored(folder)
    config = json.loads(read_text(fetched(subject.method.source, (AUTOENCODER_CONFIG,)) / AUTOENCODER_CONFIG))
    architecture = find_architecture(str(config["architecture"]))
    if architecture.reconstructs != "input":
        raise InvalidInputError(
            f"scored is {folder}, a {architecture.label}: its dictionary is of another cell than its activations. Give "
            "an autoencoder that reconstructs its input."
        )
    if features is None:
        return
    counts = pd.read_parquet(folder / FEATURES_FILE, columns=["feature", "count"]).set_index("feature")["count"]
    check_features(features, len(counts))
    if rare := [feature for feature in features if counts[feature] < FEWEST]:
        raise InvalidInputError(
            f"features names {rare[0]}, which is active on {counts[rare[0]]} tokens of the evaluation set: expected "
            f"{FEWEST} or more. Name another one."
        )


def open_scored(folder: Path) -> Subject:
    """The autoencoder and the evaluation set of a method's folder.

    Raises what `ActivationStore.open` does, and `InvalidInputError` where the method is none of an autoencoder.
    """
    text = json.loads(read_text(folder.parent / CONFIG_FILE))
    config = ComSemConfig.model_validate({name: text[name] for name in ComSemConfig.model_fields if name in text})
    source = next((one for one in config.autoencoders if Path(one).resolve().name == folder.resolve().name), RANDOM)
    if source == RANDOM:
        raise InvalidInputError(f"scored is {folder}, but {CONFIG_FILE} beside it names no autoencoder of that name.")
    if not (Path(source).is_dir() or source.count("/") == 1):
        raise InvalidInputError(
            f"scored is {folder}, whose autoencoder {source} is not there: run from the folder that ComSem ran in."
        )
    store = ActivationStore.open(config.store or folder.parent / STORE_FOLDER)
    (method,) = find_methods(config.model_copy(update={"autoencoders": (source,)}))
    store.fingerprint(method.cell)  # raises for a missing cell
    model = config.tokenizer or (str(store.manifest.request.model["name"]) if config.store else config.evaluation.model)
    return Subject(method, store, config.examples, model)
