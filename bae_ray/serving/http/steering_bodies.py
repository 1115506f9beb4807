"""Bodies of texts/steer and texts/fidelity, checked by their schemas and by what the encoder is."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bae_ray.autoencoders.architectures import architecture_of
from bae_ray.serving.compute.interface import Steering
from bae_ray.serving.config import LimitsConfig
from bae_ray.serving.http import effect_schemas as s
from bae_ray.serving.http.arrays import read_json
from bae_ray.serving.http.bodies import check_texts
from bae_ray.serving.http.media_types import Media
from bae_ray.serving.http.problems import Problem
from bae_ray.serving.registry.entry import Entry

NEW_TOKENS = 32
"""Tokens that are written where a body does not say how many."""
M = TypeVar("M", bound=BaseModel)


def steering_of(body: bytes, _media: Media, entry: Entry, limits: LimitsConfig) -> tuple[str, Steering]:
    """The text to go on from, and what is to be done meanwhile. Raises `invalid`."""
    found = _validated(s.SteerBody, read_json(body))
    new = min(NEW_TOKENS, limits.max_new_tokens) if found.max_new_tokens is None else found.max_new_tokens
    if new > limits.max_new_tokens:
        raise Problem("invalid", f"max_new_tokens may be {limits.max_new_tokens} at most.")
    added, clamped = [one.feature for one in found.add], [one.feature for one in found.clamp] + found.ablate
    if len(added) + len(clamped) > limits.max_features:
        raise Problem("invalid", f"The body may name {limits.max_features} features at most.")
    _check_features(added, clamped, entry)
    steering = Steering(
        add={one.feature: one.strength for one in found.add},
        clamp={one.feature: one.value for one in found.clamp} | dict.fromkeys(found.ablate, 0.0),
        tokens=found.tokens,
        max_new_tokens=new,
        temperature=found.temperature,
        seed=found.seed,
    )
    return found.text, steering


def fidelity_of(body: bytes, _media: Media, limits: LimitsConfig) -> tuple[list[str], bool]:
    """The texts, and whether their first tokens are replaced. Raises `invalid` and `too_much_text`."""
    found = _validated(s.FidelityBody, read_json(body))
    check_texts(found.texts, limits)
    return found.texts, found.first


def _check_features(added: list[int], clamped: list[int], entry: Entry) -> None:
    """Raise `invalid` for features that there are not, one twice, none, and for clamps of what cannot be clamped."""
    assert entry.config is not None
    _, d_latent = entry.config.widths()
    if not added and not clamped:
        raise Problem("invalid", "The body has to name a feature, in add, clamp or ablate.")
    if max(added + clamped) >= d_latent:
        raise Problem("invalid", f"The encoder has the features 0 to {d_latent - 1}.")
    if len(set(added)) < len(added) or len(set(clamped)) < len(clamped):
        raise Problem("invalid", "A feature may be in add once, and once in clamp and ablate together.")
    if clamped and architecture_of(entry.config).reconstructs != "input":
        raise Problem(
            "invalid",
            "This encoder reads one place and reconstructs another, so that no feature of it can be held there. Use "
            "add.",
        )


def _validated(model: type[M], found: dict[str, Any]) -> M:
    try:
        return model.model_validate(found, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] != "extra_forbidden":
        raise Problem("invalid", f"{' '.join(place)}: {first['msg']}.")
    if where := " ".join(place[:-1]):  # the last is its name, which is the client's own
        raise Problem("invalid", f"{where} has a field that is not taken: /openapi.json has those that are.")
    taken = ", ".join(model.model_fields)
    raise Problem("invalid", f"The body has a field that is not taken. The body may hold {taken}.")
