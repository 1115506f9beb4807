"""Means of the fidelity measures over one text, or several. Needs neither torch nor a model."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bae_ray.fidelity.text_bootstrap import recovered


class TextFidelity(NamedTuple):
    """Means over tokens that see a replaced activation and have a next token; in nats per token."""

    tokens: int
    ce_clean: float | None
    """Cross-entropy of the unchanged model. All cross-entropies are None if no token has a next one."""
    ce_spliced: float | None
    ce_mean: float | None
    """With the training mean in place; None if the autoencoder has none, like most imported ones."""
    ce_zero: float | None
    kl: float
    """KL(clean || spliced)."""
    jsd: float
    top1_agreement: float

    @property
    def ce_recovered(self) -> float | None:
        """(ce_zero - ce_spliced) / (ce_zero - ce_clean), as SAELens and SAEBench have it."""
        return self._recovered(self.ce_zero)

    @property
    def ce_recovered_mean(self) -> float | None:
        """The same with ce_mean in place of ce_zero."""
        return self._recovered(self.ce_mean)

    def _recovered(self, ablated: float | None) -> float | None:
        if ablated is None or self.ce_spliced is None or self.ce_clean is None:
            return None
        return known(float(recovered(*map(np.array, (ablated, self.ce_spliced, self.ce_clean)))))


def pooled(texts: Sequence[TextFidelity]) -> TextFidelity:
    """The means over all tokens of texts."""
    tokens = [text.tokens for text in texts]

    def over_all(values: Sequence[float | None]) -> float | None:
        return None if None in values else float(np.average(np.array(values, float), weights=tokens))

    _, *measured = zip(*texts, strict=True)
    return TextFidelity(sum(tokens), *map(over_all, measured))  # pyright: ignore[reportArgumentType]


def known(value: float) -> float | None:
    """The value, where there is one."""
    return value if math.isfinite(value) else None
