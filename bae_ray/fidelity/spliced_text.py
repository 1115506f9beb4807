"""One text: its clean pass, and what the language model predicts with other activations in place of some of its own.

Shapes: T tokens, D hidden size, n activations replaced.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bae_ray.activations.taps import Tap
from bae_ray.errors import InvalidInputError
from bae_ray.fidelity.next_token import compare, log_probabilities
from bae_ray.fidelity.text_bootstrap import recovered
from bae_ray.interventions.editable_model import EditableModel


class SplicedText:
    """A text whose activations at some tokens are replaced."""

    def __init__(
        self, model: EditableModel, token_ids: Sequence[int], read: Tap, write: Tap, replaced: Sequence[int]
    ) -> None:
        """`read` is where an autoencoder reads, `write` where its reconstruction goes, `replaced` [n] at which tokens.

        Raises `InvalidInputError` where no token is to be replaced.
        """
        if not replaced:
            raise InvalidInputError("the text has no token to replace but its first. Give a longer text.")
        self._model, self._write = model, write
        self._replaced = torch.tensor(replaced, device=model.device)
        ids = torch.tensor([list(token_ids)], device=model.device)
        taps = sorted({read, write, Tap(write.layer, "residual")})
        self._clean = model.clean(ids, torch.arange(ids.shape[1], device=model.device), taps)
        self._targets = torch.cat([ids[0, 1:], ids.new_tensor([-1])])
        self.x = self._clean.activations[read][0, self._replaced]
        """What is read, [n, D]."""

    def measures(self, value: Tensor) -> Tensor:
        """The MEASURES of each token, [5, T], with `value` [n, D] in place; cross-entropies after the last are NaN."""
        spliced = self._clean.activations[self._write].clone()
        spliced[0, self._replaced] = value.to(spliced.dtype)
        logits = self._model.spliced(self._clean, self._write, spliced)
        return compare(self._log_probabilities, logits, self._targets).cpu()

    @cached_property
    def _log_probabilities(self) -> Tensor:
        return log_probabilities(self._clean.logits)


class TextFidelity(NamedTuple):
    """Means over the tokens that can see what was replaced and whose next one is known; in nats per token."""

    tokens: int
    ce_clean: float | None
    """Of the unchanged model; None, as all cross-entropies, where no next token is known."""
    ce_spliced: float | None
    ce_mean: float | None
    """With the mean of the training samples in place; None where the autoencoder has none, as most imported ones."""
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
        """The same against the mean."""
        return self._recovered(self.ce_mean)

    def _recovered(self, ablated: float | None) -> float | None:
        if ablated is None or self.ce_spliced is None or self.ce_clean is None:
            return None
        return _known(float(recovered(*map(np.array, (ablated, self.ce_spliced, self.ce_clean)))))


def text_fidelity(text: SplicedText, x_hat: Tensor, mean: Tensor | None, told: slice) -> TextFidelity:
    """Splice a reconstruction [n, D], the mean [D] and zeros into a text; `told` are the tokens that count."""
    spliced, zero = (text.measures(value)[:, told] for value in (x_hat, torch.zeros_like(x_hat)))
    averaged = None if mean is None else text.measures(mean.expand_as(x_hat))[:, told]
    clean, ce, kl, jsd, agreement = spliced.mean(1).tolist()
    ce_mean = None if averaged is None else _known(float(averaged[1].mean()))
    ce_zero = _known(float(zero[1].mean()))
    return TextFidelity(spliced.shape[1], _known(clean), _known(ce), ce_mean, ce_zero, kl, jsd, agreement)


def pooled(texts: Sequence[TextFidelity]) -> TextFidelity:
    """The means over all tokens of texts."""
    tokens = [text.tokens for text in texts]

    def over_all(values: Sequence[float | None]) -> float | None:
        return None if None in values else float(np.average(np.array(values, float), weights=tokens))

    _, *measured = zip(*texts, strict=True)
    return TextFidelity(sum(tokens), *map(over_all, measured))  # pyright: ignore[reportArgumentType]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
