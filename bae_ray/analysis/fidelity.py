"""The loss of a language model with a layer's activations replaced by a reconstruction.

Shapes: B texts, T tokens, D hidden size, M tokens replaced.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bae_ray.activations.capture import decoder_of, find_blocks, logits_at
from bae_ray.activations.compute import Work
from bae_ray.activations.loading import load_model_with_head
from bae_ray.activations.model import ModelSource
from bae_ray.activations.probe import probe_loaded
from bae_ray.errors import InvalidInputError

Replace = Callable[[Tensor], Tensor]
"""From activations [M, D] to their replacement."""


class SplicedLoss(NamedTuple):
    """Cross-entropies of the next token, in nats per token, over the same texts."""

    tokens: int
    """Number of predicted tokens."""
    clean: float
    """Of the unchanged model."""
    spliced: float
    """With the replacement."""

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
        self._model = load_model_with_head(source, "float32", device)
        self._source = source
        self._blocks = find_blocks(self._model)
        _probe(self._model, source, len(self._blocks), device)
        self._device = device
        self._clean: dict[tuple[tuple[int, ...], ...], float] = {}
        self._real = torch.empty(0)

    @torch.inference_mode()
    def loss(
        self, texts: Sequence[Sequence[int]], layer: int, replace: Replace, first: bool = True, batch_size: int = 16
    ) -> SplicedLoss:
        """The cross-entropies over token ids, with `replace` at a layer, at every token or all but each text's first.

        Texts of one token predict nothing. Raises `InvalidInputError` where all texts have one token, for a missing
        layer, and for a text that is too long for the model.
        """
        if not 0 <= layer <= len(self._blocks):
            raise InvalidInputError(f"layer {layer} is out of range: expected 0 to {len(self._blocks)}.")
        texts = sorted((text for text in texts if len(text) > 1), key=len)
        if not texts:
            raise InvalidInputError("no text has two tokens, so there is none to predict. Give longer texts.")
        longest, limit = len(texts[-1]), self._source.max_positions
        if limit is not None and longest > limit:
            raise InvalidInputError(
                f"a text of {longest} tokens is too long: model '{self._source.name}' takes {limit}, "
                f"{self._source.limited_by}. Cut it."
            )
        tokens = sum(len(text) - 1 for text in texts)
        key = tuple(map(tuple, texts))
        if key not in self._clean:
            self._clean[key] = sum(self._losses(texts, batch_size)) / tokens
        with self._replaced(layer, replace, first):
            spliced = sum(self._losses(texts, batch_size)) / tokens
        return SplicedLoss(tokens, self._clean[key], spliced)

    def _losses(self, texts: Sequence[Sequence[int]], batch_size: int) -> Iterator[float]:
        """The summed cross-entropy of each batch."""
        for start in range(0, len(texts), batch_size):
            batch = [torch.tensor(text) for text in texts[start : start + batch_size]]
            # Padding comes after a text's tokens, and a causal model never looks there.
            ids = nn.utils.rnn.pad_sequence(batch, batch_first=True).to(self._device)
            lengths = torch.tensor([len(text) for text in batch], device=self._device)
            self._real = torch.arange(ids.shape[1], device=self._device) < lengths[:, None]
            predicting = self._real[:, 1:]
            (index,) = nn.functional.pad(predicting, (0, 1)).flatten().nonzero(as_tuple=True)
            logits = logits_at(self._model, ids, index)
            yield float(nn.functional.cross_entropy(logits.float(), ids[:, 1:][predicting], reduction="sum"))

    @contextmanager
    def _replaced(self, layer: int, replace: Replace, first: bool) -> Iterator[None]:
        def spliced(hidden: Tensor) -> Tensor:
            wanted = self._real.clone()
            wanted[:, 0] &= first
            changed = hidden.clone()
            changed[wanted] = replace(hidden[wanted]).to(hidden.dtype)
            return changed

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (spliced(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": spliced(kwargs["hidden_states"])}

        def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            output.last_hidden_state = spliced(output.last_hidden_state)
            return output

        if layer < len(self._blocks):
            handle = self._blocks[layer].register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = decoder_of(self._model).register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()


def _probe(model: PreTrainedModel, source: ModelSource, n_layers: int, device: str) -> None:
    """Try the model as an extraction does: padding after a text, and replaced later tokens, must change nothing."""
    work = Work(
        model=source,
        layers=tuple(range(n_layers + 1)),
        sites=("residual",),
        positions=("all",),
        dtype="float32",
        batch_size=2,
        batch_tokens=0,
        compile=False,
        label_tokens=(),
    )
    probe_loaded(model, work, device)
