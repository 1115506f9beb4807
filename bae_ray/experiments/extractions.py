"""The extractions that several of the paper's experiments share: every token of a corpus."""

from bae_ray.activations.config import ExtractConfig, Site, TokensConfig


def pile(model: str, layers: tuple[int, ...], sites: tuple[Site, ...] = ("residual",)) -> ExtractConfig:
    """Every token of the Pile, until there are 8,243,323 (Appendices A.4 and A.5)."""
    return ExtractConfig(
        model=model,
        corpus="monology/pile-uncopyrighted",
        layers=layers,
        sites=sites,
        positions=("all",),
        max_tokens=1024,
        max_texts=None,
        tokens=TokensConfig(max_vectors=8_243_323),
        dtype="bfloat16",
        workers=8,
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
