"""The language model of a store's activations."""

from typing import Any

from bae_ray.activations.model import ModelSource, find_model, model_identity
from bae_ray.activations.store import ActivationStore
from bae_ray.config import content_hash
from bae_ray.errors import InvalidInputError, UnknownModelError


def model_of(store: ActivationStore, name: str | None) -> ModelSource:
    """The language model of a store, by the store's name for it or another name.

    Raises `InvalidInputError` if there is no such model, or if its content differs.
    """
    wanted = store.manifest.request.model
    revision = wanted.get("commit")
    try:
        source = find_model(name or str(wanted["name"]), None if revision is None else str(revision))
    except UnknownModelError as error:
        if name is not None:
            raise
        raise InvalidInputError(
            f"the activations of {store.folder} are of the model {named(wanted)}, which is not found by that name "
            "here. Name its folder or hub id with --model."
        ) from error
    found = model_identity(source)
    if not same_model(found, wanted):
        raise InvalidInputError(
            f"the activations of {store.folder} are of the model {named(wanted)}, and '{source.name}' is "
            f"{named(found)}. Name the folder or hub id of that one with --model."
        )
    return source


def same_model(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two identities have the same content, whatever their names."""
    return {**one, "name": ""} == {**other, "name": ""}


def named(identity: dict[str, Any]) -> str:
    """A model by its name and its revision, for messages."""
    at = identity.get("commit") or f"whose files have the hash {content_hash(identity.get('files', {}))}"
    return f"'{identity['name']}' ({at})"
