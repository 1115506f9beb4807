"""The texts that a run was not trained on, as token ids. Texts that an extraction had cut are whole again."""

from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from bae_ray.activations.config import Position
from bae_ray.activations.store import ActivationStore
from bae_ray.errors import InvalidInputError
from bae_ray.seeds import stream
from bae_ray.training.samples import split_rows


class Texts(NamedTuple):
    """The texts of a store, in its order."""

    token_ids: list[list[int]]
    """Whole, however long."""
    text_ids: list[int]
    answers: list[int] | None
    """For prompts: the first token of the label's word, which follows the last token."""
    special: frozenset[int]
    """Ids of special tokens."""


class Trained(NamedTuple):
    """Which rows of a cell a run was trained on."""

    position: Position
    val_fraction: float
    seed: int


def read_texts(store: ActivationStore, tokenizer: PreTrainedTokenizerBase) -> Texts:
    """The store's texts.

    Positions may have let an extraction cut them after the last one: such a text is tokenised again.
    """
    table = store.texts
    kept = [list(map(int, ids)) for ids in table["token_ids"]]
    if store.manifest.request.input["kind"] == "texts":
        again = tokenizer([str(text) for text in table["text"]]).input_ids if kept else []
        # Where the tokenizer now says something else, the store's own are those that activations were taken of.
        kept = [new if new[: len(old)] == old else old for new, old in zip(again, kept, strict=True)]
    answers = list(map(int, table["label_token"])) if "label_token" in table else None
    return Texts(kept, list(map(int, table["text_id"])), answers, frozenset(tokenizer.all_special_ids))


def held_out_of(store: ActivationStore, run: Trained) -> np.ndarray:
    """Indices of the texts with no row in the training set. Raises `InvalidInputError` if there are none."""
    trained, held_out = split_rows(store.manifest.n, run.val_fraction, run.seed)
    if run.position != "all":
        return held_out.numpy()
    ids = store.rows["text_id"].to_numpy()
    seen = set(ids[trained.numpy()].tolist())
    found = np.array([i for i, text in enumerate(store.texts["text_id"].tolist()) if text not in seen], dtype=np.int64)
    if not len(found):
        raise InvalidInputError(
            f"every text of {store.folder} has tokens that runs of position all were trained on, so none is held out. "
            "Extract other texts into a store of their own (one layer is enough), and name it with --held-out."
        )
    return found


def chosen(
    candidates: np.ndarray, texts: Texts, position: Position, max_tokens: int, most: int | None, seed: int
) -> tuple[int, ...]:
    """At most `most` random candidates, in order, among those with a token to measure.

    Such a text has a next token after `position` within `max_tokens` tokens; for position `last` it fits whole.
    Candidates of several runs are drawn in the same order, so that runs share what texts they can. Raises
    `InvalidInputError` where there is none.
    """
    place = torch.randperm(len(texts.token_ids), generator=stream(seed, "fidelity texts")).tolist()
    able = [int(i) for i in candidates if _can_tell(len(texts.token_ids[i]), position, max_tokens)]
    if not able:
        what = "fits" if position == "last" else f"has a next token after position {position}"
        raise InvalidInputError(
            f"of {len(candidates)} held-out texts none {what} within {max_tokens} tokens. Give a larger --max-tokens, "
            "or other texts with --held-out."
        )
    return tuple(sorted(sorted(able, key=lambda i: place[i])[:most]))


def _can_tell(length: int, position: Position, max_tokens: int) -> bool:
    if position == "last":
        return length <= max_tokens
    return min(length, max_tokens) >= 2 + (position if isinstance(position, int) else 0)


def not_among(texts: Texts, other: Texts) -> np.ndarray:
    """Indices of the texts that are not among `others`."""
    seen = set(map(tuple, other.token_ids))
    return np.array([i for i, ids in enumerate(texts.token_ids) if tuple(ids) not in seen], dtype=np.int64)
