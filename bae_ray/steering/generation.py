"""Texts that a steered model writes.

Shapes: B texts, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from bae_ray.config import Config
from bae_ray.errors import NotFiniteError
from bae_ray.seeds import stream
from bae_ray.steering.edits import SteeringEdit
from bae_ray.steering.steered_model import Batch, Prompts, SteeredModel


class GenerationConfig(Config):
    """How a model writes a text."""

    max_new_tokens: int = Field(default=32, ge=1)
    """Largest number of tokens to write; fewer if the model ends the text."""
    temperature: float = Field(default=1.0, ge=0)
    """Temperature of the distribution from which tokens are drawn. 0: always the likeliest token."""
    seed: int = Field(default=0, ge=0)
    """Seed for drawing tokens. Each text has its own random numbers, whatever else is in its batch."""


class Continuation(NamedTuple):
    """What a model wrote after a prompt."""

    token_ids: list[int]
    """The new tokens, without the one that ended the text."""
    ended: bool
    """Whether the model ended the text; otherwise it was cut."""


def generate(
    model: SteeredModel,
    prompts: Prompts,
    config: GenerationConfig,
    edits: Sequence[SteeringEdit] = (),
    batch_size: int = 16,
) -> list[Continuation]:
    """Continue each prompt. Edits act on its last token, or all of its tokens, and on every new one.

    Raises `InvalidInputError` for a prompt that is too long with the new tokens, and for edits that do not fit.
    """
    model.check(prompts, edits, config.max_new_tokens)
    written: dict[int, Continuation] = {}
    for batch in model.batches(prompts, batch_size):
        acting = [edit.of(batch.texts, len(prompts)) for edit in edits]
        written |= dict(zip(batch.texts, _continue(model, batch, config, acting), strict=True))
    return [written[text] for text in range(len(prompts))]


def write(
    model: SteeredModel, prompt: Sequence[int], config: GenerationConfig, edits: Sequence[SteeringEdit] = ()
) -> Iterator[int]:
    """The tokens that `generate` gives for this one prompt, each as soon as it is chosen.

    There are fewer than `max_new_tokens` if the model ends the text. Raises what `generate` does, at once.
    """
    model.check([prompt], edits, config.max_new_tokens)
    acting = [edit.of([0], 1) for edit in edits]
    steps = _steps(model, Batch([0], [prompt]), config, acting)
    return takewhile(lambda token: token not in model.end_tokens, (chosen[0] for chosen in steps))


def _continue(
    model: SteeredModel, batch: Batch, config: GenerationConfig, edits: Sequence[SteeringEdit]
) -> list[Continuation]:
    """The texts of a batch go on until each has ended. What follows an end is cut off afterwards."""
    ends = model.end_tokens
    written: list[list[int]] = [[] for _ in batch.texts]
    for chosen in _steps(model, batch, config, edits):
        for text, token in zip(written, chosen, strict=True):
            text.append(token)
        if all(not ends.isdisjoint(text) for text in written):
            break
    return [_cut(text, ends) for text in written]


@torch.inference_mode()
def _steps(
    model: SteeredModel, batch: Batch, config: GenerationConfig, edits: Sequence[SteeringEdit]
) -> Iterator[list[int]]:
    """The next token of each text, again and again; it matters to nobody what follows an end."""
    generators = [stream(config.seed, "generate", text) for text in batch.texts]
    drawn = torch.stack([torch.rand(config.max_new_tokens, generator=one, dtype=torch.float64) for one in generators])
    reading = model.read(batch.prompts, edits)
    for step in range(config.max_new_tokens):
        logits, reading = model.go_on(reading, reading.last, edits, every=False)
        if not bool(logits[:, -1].amax().isfinite()):  # of NaN it is NaN
            raise NotFiniteError("the model's logits are not finite: the edits are too strong. Give smaller ones.")
        chosen = choose(logits[:, -1], config.temperature, drawn[:, step])
        reading = reading._replace(last=chosen[:, None])
        yield chosen.tolist()


def choose(logits: Tensor, temperature: float, drawn: Tensor) -> Tensor:
    """Tokens [B] from logits [B, V]: where the cumulative distribution reaches numbers [B] drawn from [0, 1).

    At temperature 0 the likeliest tokens.
    """
    if temperature == 0:
        return logits.argmax(1)
    logits = logits.double()
    # Less the largest first: divided by a tiny number, it would be infinite.
    reached = ((logits - logits.amax(1, keepdim=True)) / temperature).softmax(1).cumsum(1)
    wanted = drawn.to(logits.device)[:, None] * reached[:, -1:]
    return torch.searchsorted(reached, wanted, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)


def _cut(text: list[int], ends: frozenset[int]) -> Continuation:
    """A text up to the first token that ends it."""
    end = next((place for place, token in enumerate(text) if token in ends), None)
    return Continuation(text[:end], end is not None)
