"""Windows of equal length out of the texts of a corpus."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bae_ray.activations.inputs import WindowsInput
from bae_ray.activations.model import ModelSource
from bae_ray.activations.ragged import Ragged
from bae_ray.activations.tokenizing import tokenizer_of, tokens_before
from bae_ray.errors import InvalidInputError


@dataclass
class CorpusTexts:
    """Counts of the texts that windows are cut out of; lengths are in tokens."""

    lines: bool = False
    """Whether each is a line of a .txt file."""
    texts: int = 0
    """Number of texts that are not missing, empty or blank."""
    empty: int = 0
    tokens: int = 0
    shortest: int = 0
    longest: int = 0

    def add(self, empty: int, lengths: Sequence[int]) -> None:
        """Count more of them."""
        if lengths:
            self.shortest = min(self.shortest if self.texts else lengths[0], *lengths)
            self.longest = max(self.longest, *lengths)
        self.texts += len(lengths)
        self.empty += empty
        self.tokens += sum(lengths)


def check_window(window: WindowsInput, model: ModelSource) -> None:
    """Raise `InvalidInputError` for windows longer than the model takes."""
    if model.max_positions is not None and window.length > model.max_positions:
        raise InvalidInputError(
            f"input.length is {window.length}, but the model takes {model.max_positions} tokens. Give shorter windows."
        )


def windows(
    tables: Iterator[pa.Table],
    window: WindowsInput,
    model: ModelSource,
    read: int | None,
    found: CorpusTexts,
    framed: bool = True,
) -> Iterator[pa.Table]:
    """Windows of the texts, one after another, of each the first `read` tokens; `text` is the text of the whole window.

    `framed`: the texts begin with the tokens that the tokenizer puts before one.
    """
    tokenizer = tokenizer_of(model)
    before = tokens_before(tokenizer)
    framing = len(before) if framed else 0
    start = before if window.start_token else []
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    between = np.array([] if end is None else [end], dtype=np.int32)
    step = window.length - len(start)
    if step < 1:
        raise InvalidInputError(f"input.length is {window.length}, but the start token alone takes {len(start)}.")
    left = np.empty(0, dtype=np.int32)
    for table in tables:
        ids = Ragged.of(table["token_ids"])
        there = np.flatnonzero(table["text"].is_valid().to_numpy())
        texts = [ids.list(i)[framing:] for i in there]
        found.add(len(table) - len(there), [len(text) for text in texts])
        if window.joined:
            ended = [part for text in texts for part in (text, between)]
            left = np.concatenate([left, *ended])
            texts = [left]
        cut = [text[: len(text) // step * step].reshape(-1, step) for text in texts]
        left = left[len(left) // step * step :]
        rows = np.concatenate([np.empty((0, step), dtype=np.int32), *cut])
        if len(rows):
            rows = np.concatenate([np.tile(np.asarray(start, dtype=np.int32), (len(rows), 1)), rows], axis=1)
            yield token_table(rows, tokenizer, read)


def token_table(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase, read: int | None) -> pa.Table:
    """Rows of token ids of equal length, cut after `read`, with the text of the whole."""
    texts = tokenizer.batch_decode(ids.tolist(), clean_up_tokenization_spaces=False)
    ids = ids[:, :read]  # in a causal model later tokens change nothing before them
    offsets = np.arange(0, ids.size + 1, ids.shape[1], dtype=np.int32)
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "token_ids": pa.ListArray.from_arrays(offsets, pa.array(ids.ravel(), pa.int32())),
        }
    )
