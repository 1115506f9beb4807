"""Extractions that several experiments share, and checks of what an experiment accepts."""

from typing import Any

from bae_ray.activations.config import CorpusConfig, ExtractConfig, TokensConfig
from bae_ray.errors import InvalidInputError
from bae_ray.training.sweep_config import SweepConfig

LLAMA = "meta-llama/Llama-3.2-1B"
"""The language model of the paper."""
PILE = "monology/pile-uncopyrighted"
BOOKS = "bookcorpus/bookcorpus"
LARGE_BATCHES = {"batch_size": 256, "batch_tokens": 65_536, "shard_size": 4096}
"""For many short texts."""
EIGHTH = {"tokens": {"max_vectors": 1_048_576}, "workers": 1}
"""What changes of `pile` on one GPU: an eighth of the vectors."""


def on_gpus(**fields: Any) -> ExtractConfig:
    """An extraction with the paper's language model on eight GPUs, unless the other fields say otherwise."""
    shared = {"model": LLAMA, "dtype": "bfloat16", "workers": 8, "gpus_per_worker": 1}
    return ExtractConfig.model_validate({**shared, **fields})


def pile(layers: tuple[int, ...], **fields: Any) -> ExtractConfig:
    """Every token of texts of the Pile, up to the paper's number of vectors (Appendices A.4 and A.5)."""
    every_token = {"positions": ("all",), "max_tokens": 1024, "max_texts": None, "tokens": {"max_vectors": 8_243_323}}
    return on_gpus(corpus=PILE, layers=layers, **every_token, **fields)


def news(layers: tuple[int, ...], vectors: int) -> ExtractConfig:
    """The same at a laptop's size, of the bundled model and corpus, without each text's first token (a sink)."""
    return ExtractConfig(
        layers=layers,
        positions=("all",),
        max_tokens=64,
        max_texts=None,
        tokens=TokensConfig(max_vectors=vectors, first=False),
    )


def of_other_texts(extract: ExtractConfig, corpus: CorpusConfig, max_vectors: int | None) -> ExtractConfig:
    """The same extraction from another corpus, with at most `max_vectors` vectors."""
    tokens = extract.tokens.model_copy(update={"max_vectors": max_vectors})
    return extract.model_copy(update={**dict(corpus), "tokens": tokens})


def check_extract(extract: ExtractConfig, **taken: object) -> None:
    """Raise `InvalidInputError` where an experiment does not accept the extraction.

    `taken` names what it accepts: one value of `positions`, of `sites`, or of `kind` (of the input).
    """
    given = {"positions": extract.all_positions, "sites": extract.sites, "kind": extract.input.kind}
    for name, value in taken.items():
        if given[name] not in (value, (value,)):
            option = "input.kind" if name == "kind" else name
            raise InvalidInputError(f"extract.{option} is {given[name]}: this job takes {value}.")


def check_swept(extract: ExtractConfig, sweep: SweepConfig) -> None:
    """Raise `InvalidInputError` where autoencoders are to be trained on cells that the extraction does not fill."""
    there = {"layers": extract.layers, "positions": extract.all_positions, "sites": extract.sites}
    for name, filled in there.items():
        asked = getattr(sweep, name)
        if asked is None or filled is None:  # all that are there; the model's own layers
            continue
        if missing := [value for value in asked if value not in filled]:
            raise InvalidInputError(
                f"sweep.{name} has {', '.join(map(str, missing))}, which extract.{name} does not: it has "
                f"{', '.join(map(str, filled))}. Give --sweep.{name} of these, or --extract.{name} with more."
            )
