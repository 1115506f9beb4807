"""Tokenising the texts of a corpus, with Ray Data."""

import json
from collections.abc import Iterator
from functools import lru_cache, partial

import pyarrow as pa
import ray.data
from transformers import PreTrainedTokenizerBase

from bae_ray.activations.config import CorpusConfig
from bae_ray.activations.dataset import tables
from bae_ray.activations.model import ModelSource, load_tokenizer
from bae_ray.activations.reading.blocks import PLACE, PROBLEM, TEXT
from bae_ray.activations.reading.formats import reason

TOKENIZED_AT_ONCE = 1024


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
    encoded = tokenizer(
        texts,
        add_special_tokens=not chat,
        truncation=cut is not None,
        max_length=cut,
        return_attention_mask=False,
        verbose=False,
    )
    after = 0 if added or chat else tokens_after(tokenizer)
    return [row[: len(row) - after][:read] for row in encoded["input_ids"]]


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
            problems[i] = f"{place}: the model's chat template refuses the messages: {reason(error)}"
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


def tokenized(
    dataset: ray.data.Dataset,
    config: CorpusConfig,
    model: ModelSource,
    read: int | None,
    *,
    column: str = TEXT,
    added: bool = True,
    chat: bool = False,
) -> Iterator[pa.Table]:
    """The texts of a data set in order, tokenised; `column` holds them."""
    tokenized = dataset.map_batches(
        partial(tokenize, column=column, model=model, read=read, added=added, chat=chat),
        batch_format="pyarrow",
        batch_size=TOKENIZED_AT_ONCE,
        zero_copy_batch=True,
    )
    return tables(tokenized, config)
