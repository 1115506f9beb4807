"""One text: its clean pass, and the model's predictions with some of its activations replaced.

Shapes: T tokens, D hidden size, n activations replaced.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from bae_ray.activations.taps import Tap
from bae_ray.errors import InvalidInputError, NotFiniteError
from bae_ray.fidelity.next_token import compare, log_probabilities
from bae_ray.fidelity.text_fidelity import TextFidelity, known
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


def measured(text: SplicedText, x_hat: Tensor, mean: Tensor | None, told: slice) -> TextFidelity:
    """Splice a reconstruction [n, D], the mean [D] and zeros into a text; `told`: the tokens that count."""
    spliced, zero = (text.measures(value)[:, told] for value in (x_hat, torch.zeros_like(x_hat)))
    averaged = None if mean is None else text.measures(mean.expand_as(x_hat))[:, told]
    clean, ce, kl, jsd, agreement = spliced.mean(1).tolist()
    if not math.isfinite(kl):
        raise NotFiniteError("with the reconstruction in place the model's logits hold NaN or infinite numbers.")
    ce_mean = None if averaged is None else known(float(averaged[1].mean()))
    ce_zero = known(float(zero[1].mean()))
    return TextFidelity(spliced.shape[1], known(clean), known(ce), ce_mean, ce_zero, kl, jsd, agreement)
