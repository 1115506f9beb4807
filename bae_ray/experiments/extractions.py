"""Extractions that several experiments share, and checks of what an experiment accepts."""

from bae_ray.activations.config import CorpusConfig, ExtractConfig, Site, TokensConfig
from bae_ray.errors import InvalidInputError

LLAMA = "meta-llama/Llama-3.2-1B"
"""The language model of the paper."""


def pile(
    layers: tuple[int, ...],
    model: str = LLAMA,
    sites: tuple[Site, ...] = ("residual",),
    vectors: int = 8_243_323,
    workers: int = 8,
) -> ExtractConfig:
    """Every token of the Pile, until there are so many vectors (Appendices A.4 and A.5)."""
    return ExtractConfig(
        model=model,
        corpus="monology/pile-uncopyrighted",
        layers=layers,
        sites=sites,
        positions=("all",),
        max_tokens=1024,
        max_texts=None,
        tokens=TokensConfig(max_vectors=vectors),
        dtype="bfloat16",
        workers=workers,
        gpus_per_worker=1,
    )


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
    """The same extraction of another corpus, and of at most so many of its vectors."""
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
