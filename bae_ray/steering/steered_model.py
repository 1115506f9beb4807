"""A language model that reads prompts and continues them, with its activations edited.

Shapes: B texts, T tokens of the longest, n new tokens of a pass, V vocabulary.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bae_ray.activations.taps import Tap
from bae_ray.errors import InvalidInputError
from bae_ray.interventions.editable_model import EditableModel
from bae_ray.steering.edits import SteeringEdit

Prompts = Sequence[Sequence[int]]
"""Token ids of each text."""


class Batch(NamedTuple):
    """Some of the prompts, by their index."""

    texts: list[int]
    prompts: list[Sequence[int]]


class Reading(NamedTuple):
    """Prompts that a model has read, except for the last token of each."""

    last: Tensor
    """[B, 1]: that token."""
    mask: Tensor
    """[B, T - 1]: 1 at tokens, 0 at the padding before them."""
    cache: Any
    """Keys and values of the tokens read; None if there were none."""

    def again(self) -> "Reading":
        """A copy to continue from: a pass adds to the cache."""
        return Reading(self.last, self.mask, copy.deepcopy(self.cache))


class SteeredModel:
    """A whole language model. Its edits are hooks that are removed after each pass, also after an error.

    Prompts are padded on the left, so that all continue from the same place in the batch; a mask and positions hide the
    padding. Models that take no positions get prompts of one length at a time.
    """

    def __init__(self, model: EditableModel) -> None:
        self.editable = model
        takes = inspect.signature(model.model.forward).parameters
        self._takes_positions, self._chooses_logits = "position_ids" in takes, "logits_to_keep" in takes

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens after which a text is finished, by the model's own settings and its tokenizer."""
        said: Any = getattr(self.editable.model.generation_config, "eos_token_id", None)
        ids = [*(said if isinstance(said, list) else [said]), self.editable.tokenizer.eos_token_id]
        return frozenset(one for one in ids if isinstance(one, int))

    def check(self, prompts: Prompts, edits: Sequence[SteeringEdit], added: int) -> None:
        """Raise `InvalidInputError` for no prompt, an empty one, one too long with `added` tokens, or a missing layer.

        It is called before anything long begins.
        """
        if not prompts or not all(prompts):
            found = "a prompt has no token" if prompts else "there is no prompt"
            raise InvalidInputError(f"{found}: expected prompts of one token at least.")
        self.editable.check_length(max(map(len, prompts)) + added)
        for edit in edits:
            check_tap(edit.tap, self.editable.n_layers)
            edit.of(range(len(prompts)), len(prompts))

    def batches(self, prompts: Prompts, batch_size: int) -> Iterator[Batch]:
        """The prompts in batches of about one length each."""
        order = sorted(range(len(prompts)), key=lambda text: len(prompts[text]))
        batch: list[int] = []
        for text in order:
            other = bool(batch) and not self._takes_positions and len(prompts[text]) != len(prompts[batch[0]])
            if len(batch) == batch_size or other:
                yield Batch(batch, [prompts[one] for one in batch])
                batch = []
            batch.append(text)
        yield Batch(batch, [prompts[one] for one in batch])

    @torch.inference_mode()
    def read(self, prompts: Prompts, edits: Sequence[SteeringEdit] = ()) -> Reading:
        """Read all but the last token of each prompt. Only edits of all tokens act here."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(self.editable.device), mask.to(self.editable.device)
        read = Reading(ids[:, -1:], mask[:, :-1], None)
        if longest == 1:
            return read
        with self._edited([edit for edit in edits if edit.tokens == "all"]):
            cache = self._pass(ids[:, :-1], mask[:, :-1], None, 1).past_key_values
        if cache is None:
            raise InvalidInputError(
                f"a {type(self.editable.model).__name__} returns no keys and values to cache, so it cannot "
                "continue a prompt here. Give another model."
            )
        return read._replace(cache=cache)

    @torch.inference_mode()
    def go_on(
        self, reading: Reading, tokens: Tensor, edits: Sequence[SteeringEdit] = (), every: bool = True
    ) -> tuple[Tensor, Reading]:
        """The logits [B, n, V] after the tokens [B, n] (after the last only, unless `every`), and the new reading.

        It uses up the reading's cache: pass `reading.again()` if you need the reading later.
        """
        mask = torch.cat([reading.mask, reading.mask.new_ones(tokens.shape)], 1)
        with self._edited(edits):
            output = self._pass(tokens, mask, reading.cache, tokens.shape[1] if every else 1)
        return output.logits, Reading(tokens[:, -1:], mask, output.past_key_values)

    def _pass(self, ids: Tensor, mask: Tensor, cache: Any, logits: int) -> Any:
        given: dict[str, Any] = {"logits_to_keep": logits} if self._chooses_logits else {}
        if self._takes_positions:
            given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self.editable.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **given)

    @contextmanager
    def _edited(self, edits: Sequence[SteeringEdit]) -> Iterator[None]:
        with ExitStack() as stack:
            for edit in edits:  # several at one tap act one after another
                stack.enter_context(self.editable.edited({edit.tap: edit}))
            yield


def check_tap(tap: Tap, n_layers: int) -> None:
    """Raise `InvalidInputError` for a layer or a site that a model of so many blocks does not have."""
    if not 0 <= tap.layer <= n_layers:
        raise InvalidInputError(f"layer {tap.layer} is out of range: expected 0 to {n_layers}.")
    if tap.site not in ("residual", "mlp_in", "mlp_out"):
        raise InvalidInputError(f"site '{tap.site}' is not known: expected residual, mlp_in or mlp_out.")
    if tap.layer == n_layers and tap.site != "residual":
        raise InvalidInputError(
            f"layer {tap.layer} has no {tap.site}: the last block is layer {n_layers - 1}. Take the site residual, or "
            "a layer below."
        )
