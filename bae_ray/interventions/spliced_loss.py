"""The loss of a language model when a function of a layer's activations replaces them.

Shapes: B texts, T tokens, D hidden size, M tokens replaced.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bae_ray.activations.model import ModelSource
from bae_ray.activations.taps import Tap
from bae_ray.errors import InvalidInputError
from bae_ray.interventions.editable_model import EditableModel

Replace = Callable[[Tensor], Tensor]
"""From activations [M, D] to their replacement."""


class SplicedLoss(NamedTuple):
    """Cross-entropies of the next token, in nats per token, over the same texts."""

    tokens: int
    """Number of predicted tokens."""
    clean: float
    """Loss of the unchanged model."""
    spliced: float
    """Loss with the replacement."""

    @property
    def change(self) -> float:
        """Increase of the loss by the replacement, in nats per token."""
        return self.spliced - self.clean


class Splicer:
    """A language model, and its loss with the residual stream at a layer replaced.

    Layer l is `hidden_states[l]` of transformers: what block l receives; the last one is after the final norm.
    """

    def __init__(self, source: ModelSource, device: str = "cpu") -> None:
        """Raises `InvalidInputError` where the model has no language-model head, or `probe_loaded` refuses it."""
        self._model = EditableModel(source, "float32", device)

    def loss(
        self, texts: Sequence[Sequence[int]], layer: int, replace: Replace, first: bool = True, batch_size: int = 16
    ) -> SplicedLoss:
        """The cross-entropies over token ids, with `replace` at a layer, at every token or all but each text's first.

        Texts of one token predict nothing. Raises `InvalidInputError` if all texts have one token, for a missing layer,
        and for a text that is too long for the model.
        """
        self._model.check_layer(layer)
        texts = sorted((text for text in texts if len(text) > 1), key=len)
        if not texts:
            raise InvalidInputError("no text has two tokens, so there is none to predict. Give longer texts.")
        self._model.check_length(len(texts[-1]))
        sums = torch.zeros(2, dtype=torch.float64)
        for start in range(0, len(texts), batch_size):
            sums += self._losses(texts[start : start + batch_size], Tap(layer, "residual"), replace, first)
        tokens = sum(len(text) - 1 for text in texts)
        clean, spliced = (sums / tokens).tolist()
        return SplicedLoss(tokens, clean, spliced)

    @torch.inference_mode()
    def _losses(self, texts: Sequence[Sequence[int]], tap: Tap, replace: Replace, first: bool) -> Tensor:
        """The summed cross-entropies of a batch: of the unchanged model, and with the replacement."""
        ids = padded(texts).to(self._model.device)
        real = torch.arange(ids.shape[1]) < torch.tensor([[len(text)] for text in texts])
        predicting = nn.functional.pad(real[:, 1:], (0, 1)).flatten().nonzero().squeeze(1).to(ids.device)
        clean = self._model.clean(ids, predicting, [tap])
        real[:, 0] &= first
        value = clean.activations[tap].clone()
        value[real] = replace(value[real]).to(value.dtype)
        targets = ids.flatten()[predicting + 1]
        both = (clean.logits, self._model.spliced(clean, tap, value))
        found = [nn.functional.cross_entropy(logits.float(), targets, reduction="sum") for logits in both]
        return torch.stack(found).double().cpu()


def padded(texts: Sequence[Sequence[int]]) -> Tensor:
    """Token ids [B, T] of texts, padded on the right, where a causal model never looks."""
    return nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
