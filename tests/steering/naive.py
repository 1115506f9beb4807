"""Steering as one would write it first: a whole pass for each text and each new token, no batch, no cache."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Change = Callable[[Tensor], Tensor]


class Naive:
    """A model of transformers, and a hook on one of its blocks."""

    def __init__(self, model: PreTrainedModel, blocks: nn.ModuleList) -> None:
        self.model, self.blocks = model, blocks

    @torch.no_grad()
    def logits(self, ids: Sequence[int], layer: int = 0, change: Change | None = None, start: int = 0) -> Tensor:
        """[T, V], with the vectors from `start` on that enter block `layer` changed."""

        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            assert change is not None
            hidden = args[0].clone()
            hidden[0, start:] = change(hidden[0, start:])
            return (hidden, *args[1:])

        handle = None if change is None else self.blocks[layer].register_forward_pre_hook(hook)
        found = self.model(torch.tensor([list(ids)]), use_cache=False).logits[0]
        if handle is not None:
            handle.remove()
        return found

    def greedy(self, ids: Sequence[int], new: int, layer: int, change: Change, start: int) -> list[int]:
        """The likeliest tokens one after another, up to token 0, which ends a text."""
        text = list(ids)
        for _ in range(new):
            text.append(int(self.logits(text, layer, change, start)[-1].argmax()))
            if text[-1] == 0:
                return text[len(ids) : -1]
        return text[len(ids) :]
