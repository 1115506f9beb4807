"""The texts that the model reads, from a corpus or made up: texts, windows, prompts or random sequences."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from bae_ray.activations import corpus
from bae_ray.activations.config import ExtractConfig, ICLInput, RandomTokensInput, WindowsInput
from bae_ray.activations.dataset import read_corpus, tokenized
from bae_ray.activations.labelled import prompt_tables, read_labelled
from bae_ray.activations.layout import WindowedTexts
from bae_ray.activations.model import ModelSource
from bae_ray.activations.prompts import random_sequences
from bae_ray.activations.ragged import Ragged
from bae_ray.activations.tokenising import decoded, tokenizer_of, tokens_before
from bae_ray.errors import InvalidInputError

BLOCK_ROWS = 8192


class Source(NamedTuple):
    """The texts that the model reads."""

    identity: dict[str, object]
    """What identifies them, including their content."""
    tables: Callable[[float], Iterator[pa.Table]]
    """The texts in order, as tables of text, token_ids, and the columns of their kind. It is told how many CPUs each
    task that tokenises takes."""
    label_tokens: tuple[int, ...] | None = None
    """Prompts: the token that begins each label's word."""
    windowed: WindowedTexts | None = None
    """Windows: the texts that they are cut out of, counted while `tables` are read."""


def find_source(config: ExtractConfig, model: ModelSource, read: int | None) -> Source:
    """The texts of a config: the first `read` tokens of each (None: all tokens).

    Raises an `InvalidInputError` for a corpus that cannot be used in this way. Connects to Ray only where a labelled
    corpus has to be read.
    """
    chosen = config.input
    kind = chosen.model_dump(mode="json")
    if isinstance(chosen, RandomTokensInput):
        n = _number_of_sequences(config, chosen, model)
        return Source({**kind, "n": n}, lambda _: _random_tables(chosen, n, tokenizer_of(model), read))
    if isinstance(chosen, ICLInput) and chosen.label_column == config.text_column:
        raise InvalidInputError(
            f"input.label_column and text_column are both '{config.text_column}': the label is in another column."
        )
    found = corpus.resolve(config, chosen.label_column if isinstance(chosen, ICLInput) else None)
    chat = isinstance(found, corpus.LocalFiles) and found.columns.chat
    if chat:
        _check_chats(config, model)
    identity = {**kind, "corpus": corpus.identity(config, found)}
    if isinstance(chosen, WindowsInput):
        if model.max_positions is not None and chosen.length > model.max_positions:
            raise InvalidInputError(
                f"input.length is {chosen.length}, but the model takes {model.max_positions} tokens. Give shorter "
                "windows."
            )
        texts = WindowedTexts(lines=isinstance(found, corpus.LocalFiles) and found.are_lines)

        def tables(cpus: float) -> Iterator[pa.Table]:
            whole = tokenized(read_corpus(found, config), config, model, None, added=False, chat=chat, cpus=cpus)
            return windows(whole, chosen, model, read, texts, framed=not chat)

        return Source(identity, tables, windowed=texts)
    if isinstance(chosen, ICLInput):
        examples = read_labelled(config, chosen, found, model)
        form = {**examples.format._asdict(), "label_words": list(examples.format.label_words)}
        identity |= {"format": form, "label_tokens": list(examples.label_tokens)}
        prompts = partial(prompt_tables, examples, config, chosen, model, read)
        return Source(identity, prompts, examples.label_tokens)
    return Source(
        identity, lambda cpus: tokenized(read_corpus(found, config), config, model, read, chat=chat, cpus=cpus)
    )


def _check_chats(config: ExtractConfig, model: ModelSource) -> None:
    """Raise `InvalidInputError` where messages cannot be made texts."""
    if isinstance(config.input, ICLInput):
        raise InvalidInputError(
            f"column '{config.text_column}' of corpus '{config.corpus}' holds lists of messages, but a prompt is made "
            "of texts. Name another column with --text-column, or give --input.kind texts."
        )
    if not tokenizer_of(model).chat_template:
        raise InvalidInputError(
            f"column '{config.text_column}' of corpus '{config.corpus}' holds lists of messages, but the tokenizer of "
            f"model '{model.name}' has no chat template to make texts of them. Give the model's chat version, or write "
            "each chat as one text."
        )


def _number_of_sequences(config: ExtractConfig, chosen: RandomTokensInput, model: ModelSource) -> int:
    """Raises `InvalidInputError` where the sequences cannot be made so."""
    if config.max_texts is None:
        raise InvalidInputError("max_texts is None, but random sequences have no end. Give a number.")
    if not all(0 <= token < model.vocabulary for token in chosen.tokens) or len(set(chosen.tokens)) != 2:
        raise InvalidInputError(
            f"input.tokens are {chosen.tokens}: expected two different ids of 0 to {model.vocabulary - 1}."
        )
    if model.max_positions is not None and chosen.bits > model.max_positions:
        raise InvalidInputError(
            f"input.bits is {chosen.bits}, but the model takes {model.max_positions} tokens. Give fewer bits."
        )
    return config.max_texts


def _random_tables(
    chosen: RandomTokensInput, n: int, tokenizer: PreTrainedTokenizerBase, read: int | None
) -> Iterator[pa.Table]:
    ids = random_sequences(n, chosen.bits, chosen.tokens, chosen.seed).astype(np.int32)
    for start in range(0, n, BLOCK_ROWS):
        yield token_table(ids[start : start + BLOCK_ROWS], tokenizer, read)


def windows(
    tables: Iterator[pa.Table],
    window: WindowsInput,
    model: ModelSource,
    read: int | None,
    found: WindowedTexts,
    framed: bool = True,
) -> Iterator[pa.Table]:
    """Windows of the texts in order, the first `read` tokens of each; `text` is the text of the whole window.

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
        raise InvalidInputError(
            f"input.length is {window.length}, but the start token alone takes {len(start)}. Give longer windows."
        )
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
    texts = decoded(ids, tokenizer)
    ids = ids[:, :read]  # in a causal model later tokens change nothing before them
    offsets = np.arange(0, ids.size + 1, ids.shape[1], dtype=np.int32)
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "token_ids": pa.ListArray.from_arrays(offsets, pa.array(ids.ravel(), pa.int32())),
        }
    )
