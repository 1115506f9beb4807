"""Reading a language model's activations at chosen layers and sites while it runs.

Shapes: B texts, T tokens, M vectors wanted of a batch, D hidden size, S = layers x sites.
"""

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bae_ray.activations.parts import decoder_of, find_blocks
from bae_ray.activations.taps import SITES, Tap, attach
from bae_ray.errors import InvalidInputError


class _LastTapReachedError(Exception):
    """Ends a forward pass at the last tap."""


class Capture:
    """Forward passes that keep only the wanted vectors.

    A pass ends at the last tap, and blocks past it are dropped from the model: neither held in memory nor run.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Sequence[int],
        sites: Sequence[str],
        answers: bool = False,
        shared: bool = False,
    ) -> None:
        """Hook a model: a stack without a head or, with `answers`, a whole causal model, which is then run whole.

        `shared`: leave the model whole, for other captures of it.

        Raises `InvalidInputError` for an architecture whose blocks, or their MLPs, cannot be found.
        """
        self._model, self._answers = model, answers
        config = model.config.get_text_config()
        self._width: int = config.hidden_size
        self._stream: int | None = getattr(config, "altup_active_idx", None)
        self.taps = [Tap(layer, site) for layer in sorted(layers) for site in SITES if site in sites]
        self._final = Tap(config.num_hidden_layers, "residual")
        self._last = None if answers or self._final in self.taps else self.taps[-1]
        self._index: Tensor = torch.empty(0, dtype=torch.long)
        self._shape: tuple[int, ...] = ()
        self._captured: dict[Tap, Tensor] = {}
        self._runs = False
        self.blocks = find_blocks(model)
        if self._last is not None and not shared:
            del self.blocks[self._last.layer + 1 :]
        top = decoder_of(model) if answers else model
        for tap in self.taps:
            attach(self.blocks, top, tap, partial(self._reach, tap))

    def __call__(self, token_ids: Tensor, index: Tensor, asked: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Activations [S, M, D] of `taps`, for token ids [B, T] padded on the right, on the model's device.

        `index` [M] are indices into the B T tokens. With `answers`, `asked` are indices after which the model's own
        logits [len(asked), V] are returned as well.

        Raises `InvalidInputError` if some blocks do not run, or run on other shapes than [B, T, D].
        """
        self._index, self._shape, self._captured, self._runs = index, tuple(token_ids.shape), {}, True
        logits = None
        with torch.inference_mode():
            try:
                # No mask: the padding comes after a text's tokens, and a causal model never looks there.
                if asked is not None:
                    logits = logits_at(self._model, token_ids, asked)
                else:
                    self._model(input_ids=token_ids, use_cache=False)
            except _LastTapReachedError:
                pass
            finally:
                self._runs = False
            captured, self._captured = self._captured, {}
            if idle := sorted({tap.layer for tap in self.taps if tap not in captured}):
                raise InvalidInputError(
                    f"layers {', '.join(map(str, idle))} of a {type(self._model).__name__} do not run on text input. "
                    "Leave them out of --layers."
                )
            return torch.stack([captured[tap].to(index.device) for tap in self.taps]), logits

    def compile(self) -> None:
        """Compile the model's blocks; hooks stay outside of what is compiled."""
        inside = any(tap.site != "residual" for tap in self.taps)
        for block in self.blocks:
            for part in block.children() if inside else [block]:
                part.forward = torch.compile(part.forward, dynamic=True)

    def _reach(self, tap: Tap, hidden: Tensor) -> None:
        if not self._runs:  # the pass is another capture's
            return
        if hidden.dim() == 4 and self._stream is not None:  # of several streams the one that blocks compute with
            hidden = hidden[self._stream]
        expected = (*self._shape, self._width)
        if tuple(hidden.shape) not in (expected, (prod(self._shape), self._width)):
            raise InvalidInputError(
                f"layer {tap.layer}, {tap.site}, of a {type(self._model).__name__} is of shape {tuple(hidden.shape)}; "
                f"expected {expected}: texts, tokens, hidden size. Leave it out with --layers and --sites, or give "
                "another model."
            )
        self._captured[tap] = hidden.reshape(-1, self._width).index_select(0, self._index.to(hidden.device))
        if tap == self._last:
            raise _LastTapReachedError


def logits_at(causal: PreTrainedModel, token_ids: Tensor, index: Tensor) -> Tensor:
    """The causal model's own logits [M, V] at `index` [M], counted through the B T tokens of token ids [B, T].

    Includes all that the model does after its last vectors: a transform before the head, a scale, a soft cap. Only the
    vectors of the index go through it, so logits of all B T tokens are never in memory.

    Raises `InvalidInputError` for a model whose head does not take the last vectors of its decoder.
    """

    def choose(_module: nn.Module, _args: object, output: dict) -> dict:
        hidden: Tensor = output["last_hidden_state"]
        output["last_hidden_state"] = hidden.flatten(0, 1).index_select(0, index)[:, None]
        return output

    # The innermost one: the causal model of an OPT calls it without what stands between.
    handle = decoder_of(causal).register_forward_hook(choose)  # pyright: ignore[reportArgumentType]
    try:
        logits: Tensor = causal(input_ids=token_ids, use_cache=False).logits
    finally:
        handle.remove()
    if logits.dim() != 3 or logits.shape[:2] != (len(index), 1):
        raise InvalidInputError(
            f"the head of a {type(causal).__name__} does not take the last vectors of its decoder: {len(index)} chosen "
            f"ones gave logits of shape {tuple(logits.shape)}. It cannot answer prompts here; give another model."
        )
    return logits[:, 0]
