"""Texts as token ids, and the tokens that a tokenizer puts around a text."""

import json
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils.generic import PaddingStrategy

from bae_ray.activations.model import ModelSource, load_tokenizer
from bae_ray.activations.reading.blocks import PLACE, PROBLEM
from bae_ray.errors import first_line


def tokenize(
    table: pa.Table, column: str, model: ModelSource, read: int | None, added: bool = True, chat: bool = False
) -> pa.Table:
    """A table (text, token_ids, and the other columns) for the texts in `column`; ids end after `read`.

    A missing text has no tokens, not even a start token. `added`: with the tokens that the tokenizer puts before and
    after a text; else only with those before it, so that the last one is the text's own. `chat`: the texts are messages
    as JSON, from which the model's template makes a text with special tokens.
    """
    tokenizer = tokenizer_of(model)
    texts: list[str | None] = table[column].to_pylist()
    if chat:
        texts, table = _chats(table, texts, tokenizer)
    there = [i for i, text in enumerate(texts) if text is not None]
    ids: list[list[int]] = [[] for _ in texts]
    for i, row in zip(there, _encoded([texts[i] or "" for i in there], tokenizer, read, added, chat), strict=True):
        ids[i] = row
    others = table.drop_columns([column])
    columns = {"text": pa.array(texts, pa.string()), "token_ids": pa.array(ids, pa.list_(pa.int32()))}
    return pa.table({**columns, **dict(zip(others.column_names, others.columns, strict=True))})


def _encoded(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, read: int | None, added: bool, chat: bool
) -> list[list[int]]:
    if not texts:
        return []
    tokenizer.truncation_side = "right"
    # Tokenizers that end a text with a special token put it after the truncated text: cut only beyond it.
    cut = None if read is None else read + tokenizer.num_special_tokens_to_add()
    after = 0 if added or chat else tokens_after(tokenizer)
    return [row[: len(row) - after][:read] for row in _ids(texts, tokenizer, not chat, cut)]


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase, special: bool, cut: int | None) -> list[list[int]]:
    """What the tokenizer gives for a batch, without the offsets and the copies that its own call makes of each text."""
    if type(tokenizer)._encode_plus is not PreTrainedTokenizerFast._encode_plus:  # noqa: SLF001 - whether it is changed
        return tokenizer(texts, add_special_tokens=special, truncation=cut is not None, max_length=cut,
                         return_attention_mask=False, verbose=False)["input_ids"]  # fmt: skip
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    truncation = TruncationStrategy.LONGEST_FIRST if cut is not None else TruncationStrategy.DO_NOT_TRUNCATE
    tokenizer.set_truncation_and_padding(PaddingStrategy.DO_NOT_PAD, truncation, cut or 0, 0, None, None)
    backend: Any = tokenizer.backend_tokenizer
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=special)]


def decoded(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each row of token ids, as the tokenizer's own call gives it, by all cores at once."""
    if type(tokenizer)._decode is not PreTrainedTokenizerFast._decode:  # noqa: SLF001 - whether it is changed
        return tokenizer.batch_decode(ids.tolist(), clean_up_tokenization_spaces=False)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer.backend_tokenizer.decode_batch(ids.tolist(), skip_special_tokens=False)


def _chats(
    table: pa.Table, chats: list[str | None], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str | None], pa.Table]:
    """The chats as texts, and the table without their places and with the problems of those that are refused."""
    problems, texts = table[PROBLEM].to_pylist(), []
    for i, (chat, place) in enumerate(zip(chats, table[PLACE].to_pylist(), strict=True)):
        try:
            texts.append(None if chat is None else tokenizer.apply_chat_template(json.loads(chat), tokenize=False))
        except Exception as error:  # the template is a program, which may raise anything
            texts.append(None)
            problems[i] = f"{place}: the model's chat template refuses the messages: {first_line(error)}"
    return texts, table.drop_columns([PLACE, PROBLEM]).append_column(PROBLEM, pa.array(problems, pa.string()))


def tokens_before(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    return encoded["input_ids"][: encoded["special_tokens_mask"].index(0)]


def tokens_after(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many special tokens the tokenizer puts after a text."""
    return tokenizer.num_special_tokens_to_add() - len(tokens_before(tokenizer))


@lru_cache(maxsize=1)
def tokenizer_of(model: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer, loaded once per process."""
    return load_tokenizer(model)
