"""What the model reads: texts, windows, in-context-learning prompts, random sequences."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bae_ray.activations import corpus
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.inputs import ICLInput, RandomTokensInput, WindowsInput
from bae_ray.activations.labelled import prompt_tables, read_labelled
from bae_ray.activations.model import ModelSource
from bae_ray.activations.prompts import random_sequences
from bae_ray.activations.ragged import Ragged
from bae_ray.activations.tokenizing import read_corpus, tokenized, tokenizer_of, tokens_before
from bae_ray.errors import InvalidInputError

BLOCK_ROWS = 8192


class Source(NamedTuple):
    """What the model is to read."""

    identity: dict[str, object]
    """What tells it from another, down to its content."""
    tables: Callable[[], Iterator[pa.Table]]
    """Its texts in order, as tables of text, token_ids, and what their kind adds."""
    label_tokens: tuple[int, ...] | None = None
    """Prompts: the token that begins each label's word."""


def find_source(config: ExtractConfig, model: ModelSource, read: int | None) -> Source:
    """What `config` asks the model to read, of each text the first `read` tokens (None: all of them).

    Raises an `InvalidInputError` for a corpus that cannot be used so; connects to Ray only where a labelled corpus has
    to be read for that.
    """
    chosen = config.input
    kind = chosen.model_dump(mode="json")
    if isinstance(chosen, RandomTokensInput):
        n = _number_of_sequences(config, chosen, model)
        return Source({**kind, "n": n}, lambda: _random_tables(chosen, n, tokenizer_of(model)))
    if isinstance(chosen, ICLInput) and chosen.label_column == config.text_column:
        raise InvalidInputError(
            f"input.label_column and text_column are both '{config.text_column}': the label is in another column."
        )
    found = corpus.resolve(config, [chosen.label_column] if isinstance(chosen, ICLInput) else [])
    identity = {**kind, "corpus": corpus.identity(config, found)}
    if isinstance(chosen, WindowsInput):
        _check_window(chosen, model)
        return Source(
            identity,
            lambda: _windows(tokenized(read_corpus(found, config), config, model, None, added=False), chosen, model),
        )
    if isinstance(chosen, ICLInput):
        examples = read_labelled(config, chosen, found, model)
        form = {**examples.format._asdict(), "label_words": list(examples.format.label_words)}
        identity |= {"format": form, "label_tokens": list(examples.label_tokens)}
        return Source(identity, lambda: prompt_tables(examples, config, chosen, model, read), examples.label_tokens)
    return Source(identity, lambda: tokenized(read_corpus(found, config), config, model, read))


def _check_window(window: WindowsInput, model: ModelSource) -> None:
    if model.max_positions is not None and window.length > model.max_positions:
        raise InvalidInputError(
            f"input.length is {window.length}, but the model takes {model.max_positions} tokens. Give shorter windows."
        )


def _windows(tables: Iterator[pa.Table], window: WindowsInput, model: ModelSource) -> Iterator[pa.Table]:
    """Windows of the texts, one after another; their `text` is what their tokens spell."""
    tokenizer = tokenizer_of(model)
    before = tokens_before(tokenizer)
    start = before if window.start_token else []
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    between = np.array([] if end is None else [end], dtype=np.int32)
    step = window.length - len(start)
    if step < 1:
        raise InvalidInputError(f"input.length is {window.length}, but the start token alone takes {len(start)}.")
    left = np.empty(0, dtype=np.int32)
    for table in tables:
        ids = Ragged.of(table["token_ids"])
        texts = [ids.list(i)[len(before) :] for i in range(len(ids))]
        if window.joined:
            ended = [part for text in texts for part in (text, between)]
            left = np.concatenate([left, *ended])
            texts = [left]
        cut = [text[: len(text) // step * step].reshape(-1, step) for text in texts]
        left = left[len(left) // step * step :]
        rows = np.concatenate([np.empty((0, step), dtype=np.int32), *cut])
        if len(rows):
            rows = np.concatenate([np.tile(np.asarray(start, dtype=np.int32), (len(rows), 1)), rows], axis=1)
            yield _table(rows, tokenizer)


def _number_of_sequences(config: ExtractConfig, chosen: RandomTokensInput, model: ModelSource) -> int:
    """Raises `InvalidInputError` where the sequences cannot be made so."""
    if config.max_texts is None:
        raise InvalidInputError("max_texts is left out: random sequences have no end. Say how many.")
    if not all(0 <= token < model.vocabulary for token in chosen.tokens) or len(set(chosen.tokens)) != 2:
        raise InvalidInputError(
            f"input.tokens are {chosen.tokens}: expected two different ids of 0 to {model.vocabulary - 1}."
        )
    if model.max_positions is not None and chosen.bits > model.max_positions:
        raise InvalidInputError(f"input.bits is {chosen.bits}, but the model takes {model.max_positions} tokens.")
    return config.max_texts


def _random_tables(chosen: RandomTokensInput, n: int, tokenizer: PreTrainedTokenizerBase) -> Iterator[pa.Table]:
    ids = random_sequences(n, chosen.bits, chosen.tokens, chosen.seed).astype(np.int32)
    for start in range(0, n, BLOCK_ROWS):
        yield _table(ids[start : start + BLOCK_ROWS], tokenizer)


def _table(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> pa.Table:
    """Rows of token ids of equal length, and what they spell."""
    texts = tokenizer.batch_decode(ids.tolist(), clean_up_tokenization_spaces=False)
    offsets = np.arange(0, ids.size + 1, ids.shape[1], dtype=np.int32)
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "token_ids": pa.ListArray.from_arrays(offsets, pa.array(ids.ravel(), pa.int32())),
        }
    )
