"""A whole causal language model whose activations can be read and replaced while it runs.

Shapes: B texts, T tokens, D hidden size, M tokens whose next one is predicted, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bae_ray.activations.capture import logits_at
from bae_ray.activations.compute import Work
from bae_ray.activations.config import Precision
from bae_ray.activations.loading import load_model_with_head
from bae_ray.activations.model import ModelSource, load_tokenizer
from bae_ray.activations.parts import decoder_of, find_blocks
from bae_ray.activations.probe import probe_loaded
from bae_ray.activations.taps import Tap, attach
from bae_ray.errors import InvalidInputError

Edit = Callable[[Tensor], Tensor | None]
"""A function of activations [B, T, D] at a tap that returns their replacement, or None to keep them."""
SAME = 1e-3
"""Largest difference of logits, relative to the largest logit, that rounding explains between a whole pass and one that
starts at a layer. Models with a larger difference always run whole passes."""


class CleanPass(NamedTuple):
    """A forward pass in which nothing is replaced."""

    token_ids: Tensor
    """[B, T], padded on the right."""
    asked: Tensor
    """[M]: indices, among the B T tokens, of those whose next token is predicted."""
    logits: Tensor
    """[M, V]."""
    activations: dict[Tap, Tensor]
    """[B, T, D] at each tap that was asked for."""


class EditableModel:
    """A language model with its head, in evaluation mode. Edits end with their context, also after an error."""

    def __init__(self, source: ModelSource, dtype: Precision = "float32", device: str = "cpu") -> None:
        """Load and try the model. Raises `InvalidInputError` where it has no head, or `probe_loaded` refuses it."""
        self.source, self.device = source, device
        self.model: PreTrainedModel = load_model_with_head(source, dtype, device)
        self._blocks, self._top = find_blocks(self.model), decoder_of(self.model)
        self._stream: int | None = getattr(self.model.config.get_text_config(), "altup_active_idx", None)
        self._resumable: dict[int, bool] = {}
        self._shape: tuple[int, ...] = ()
        self._top.register_forward_pre_hook(self._begin, with_kwargs=True)
        _probe(self.model, source, self.n_layers, dtype, device)

    @property
    def n_layers(self) -> int:
        """Number of blocks; there is one layer more, after the final norm."""
        return len(self._blocks)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own."""
        return load_tokenizer(self.source)

    def check_layer(self, layer: int) -> None:
        """Raise `InvalidInputError` for a layer that the model does not have."""
        if not 0 <= layer <= self.n_layers:
            raise InvalidInputError(f"layer {layer} is out of range: expected 0 to {self.n_layers}.")

    def check_length(self, tokens: int) -> None:
        """Raise `InvalidInputError` for a text of more tokens than the model takes."""
        limit = self.source.max_positions
        if limit is not None and tokens > limit:
            raise InvalidInputError(
                f"a text of {tokens} tokens is too long: model '{self.source.name}' takes {limit}, "
                f"{self.source.limited_by}. Cut it."
            )

    @contextmanager
    def edited(self, edits: Mapping[Tap, Edit]) -> Iterator[None]:
        """While the context is open, each forward pass applies its edit to the activations at each tap.

        Raises `InvalidInputError` for a tap that the model does not have.
        """
        with ExitStack() as stack:
            for tap, edit in edits.items():
                self.check_layer(tap.layer)
                handle = attach(self._blocks, self._top, tap, partial(self._visit, edit))
                stack.callback(handle.remove)
            yield

    def clean(self, token_ids: Tensor, index: Tensor, taps: Sequence[Tap] = ()) -> CleanPass:
        """Run token ids [B, T], padded on the right; keep the logits at `index` [M] and the activations at `taps`."""
        kept: dict[Tap, Tensor] = {}

        def keep(tap: Tap, hidden: Tensor) -> None:
            kept[tap] = hidden.clone()  # some blocks add to what they receive in place

        with torch.inference_mode(), self.edited({tap: partial(keep, tap) for tap in taps}):
            logits = logits_at(self.model, token_ids, index)
        return CleanPass(token_ids, index, logits, kept)

    def spliced(self, clean: CleanPass, tap: Tap, value: Tensor, asked: Tensor | None = None) -> Tensor:
        """The logits [M, V] with `value` [B, T, D] in place of the activations at a tap.

        `asked` [M]: at which tokens, by default those of `clean`. Layers below the tap are not run again if `clean` has
        the residual stream that enters the tap's block.
        """
        start = value if tap.site == "residual" else clean.activations.get(Tap(tap.layer, "residual"))
        with torch.inference_mode(), self.edited({tap: lambda _: value}), ExitStack() as stack:
            if start is not None and self._resumes(clean, tap.layer):
                stack.enter_context(self._skipping(tap.layer, start))
            return logits_at(self.model, clean.token_ids, clean.asked if asked is None else asked)

    def _resumes(self, clean: CleanPass, layer: int) -> bool:
        """Whether a pass may go on from a layer; tried with what entered it, once for each layer."""
        if layer == 0:
            return True
        entered = clean.activations.get(Tap(layer, "residual"))
        if entered is None:
            return False
        if layer not in self._resumable:
            self._resumable[layer] = self._same(clean, layer, entered)
        return self._resumable[layer]

    def _same(self, clean: CleanPass, layer: int, entered: Tensor) -> bool:
        try:
            with self.edited({Tap(layer, "residual"): lambda _: entered}), self._skipping(layer, entered):
                found = logits_at(self.model, clean.token_ids, clean.asked)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # blocks that give more than a tensor
            return False
        return bool((found - clean.logits).abs().max() <= SAME * clean.logits.abs().max())

    @contextmanager
    def _skipping(self, layer: int, hidden: Tensor) -> Iterator[None]:
        """While the context is open, the blocks below a layer give `hidden` [B, T, D] without computing."""
        blocks: list[nn.Module] = list(self._blocks)[:layer]
        try:
            for block in blocks:
                block.forward = lambda *_, **__: hidden
            yield
        finally:
            for block in blocks:
                block.__dict__.pop("forward", None)

    def _begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the numbers of texts and tokens of the pass that begins."""
        given = args[0] if args else kwargs.get("input_ids")
        self._shape = tuple((kwargs["inputs_embeds"] if given is None else given).shape[:2])

    def _visit(self, edit: Edit, hidden: Tensor) -> Tensor | None:
        """Give an edit [B, T, D], whatever shape the module has for it."""
        if hidden.dim() == 4 and self._stream is not None:  # of several streams the one that blocks compute with
            if (new := edit(hidden[self._stream])) is None:
                return None
            changed = hidden.clone()
            changed[self._stream] = new
            return changed
        new = edit(hidden.reshape(*self._shape, hidden.shape[-1]))
        return None if new is None else new.to(hidden.dtype).reshape(hidden.shape)


def _probe(model: PreTrainedModel, source: ModelSource, n_layers: int, dtype: Precision, device: str) -> None:
    """Try the model as an extraction does: padding after a text, and replaced later tokens, must change nothing."""
    work = Work(
        model=source,
        layers=tuple(range(n_layers + 1)),
        sites=("residual",),
        positions=("all",),
        dtype=dtype,
        batch_size=2,
        batch_tokens=0,
        compile=False,
        label_tokens=(),
    )
    probe_loaded(model, work, device)
