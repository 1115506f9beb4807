"""In-context-learning prompts of a labelled corpus, and the tokens that answer them."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray
import ray.data
from transformers import PreTrainedTokenizerBase

from bae_ray.activations.bundled import BUNDLED_CORPORA
from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.corpus import HubDataset, LocalFiles
from bae_ray.activations.inputs import ICLInput
from bae_ray.activations.model import ModelSource
from bae_ray.activations.prompts import FixedPrompts, PromptFormat, SampledPrompts
from bae_ray.activations.tokenizing import read_corpus, tables, tokenized, tokenizer_of
from bae_ray.cluster import configure_data, connect
from bae_ray.errors import InvalidInputError

PROMPTS_PER_BLOCK = 1024


class Labelled(NamedTuple):
    """A labelled corpus, and how its prompts are written."""

    texts: list[str]
    labels: np.ndarray[tuple[int], np.dtype[np.int32]]
    format: PromptFormat
    label_tokens: tuple[int, ...]
    """The token that begins each label's word after a prompt."""


def read_labelled(
    config: ExtractConfig, chosen: ICLInput, found: LocalFiles | HubDataset, model: ModelSource
) -> Labelled:
    """The labelled corpus in memory. Raises `InvalidInputError` where its labels cannot be told apart."""
    connect()
    configure_data()
    blocks = tables(read_corpus(found, config, chosen.label_column), config)
    table = pa.concat_tables(blocks, promote_options="permissive").drop_null()
    if not len(table):
        raise InvalidInputError(f"corpus '{config.corpus}' has 0 examples with a text and a label. Give another.")
    column = table[chosen.label_column]
    if pa.types.is_floating(column.type) and not np.any(column.to_numpy() % 1):  # whole numbers, where some are missing
        column = column.cast(pa.int64())
    own = BUNDLED_CORPORA.get(config.corpus)
    words = chosen.label_words or (own.label_words if own else None)
    if pa.types.is_integer(column.type):
        labels = column.to_numpy().astype(np.int32)
        if words is None:
            raise InvalidInputError(
                f"the labels of corpus '{config.corpus}' are numbers: give the word for each with --input.label-words."
            )
    else:
        written = [str(label) for label in column.to_pylist()]
        words = words or tuple(sorted(set(written)))
        if unknown := sorted(set(written) - set(words)):
            raise InvalidInputError(f"label '{unknown[0]}' is none of the label words {', '.join(words)}.")
        labels = np.array([words.index(label) for label in written], dtype=np.int32)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(words):
        raise InvalidInputError(
            f"labels of corpus '{config.corpus}' go from {labels.min()} to {labels.max()}, but there are {len(words)} "
            f"label words: {', '.join(words)}. Give one for each with --input.label-words."
        )
    form = PromptFormat(
        chosen.text_prefix if chosen.text_prefix is not None else own.text_prefix if own else "sentence: ",
        chosen.label_prefix if chosen.label_prefix is not None else own.label_prefix if own else "label: ",
        words,
    )
    return Labelled(table[config.text_column].to_pylist(), labels, form, label_tokens(form, tokenizer_of(model)))


def label_tokens(form: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token that begins each label's word after a prompt.

    Raises `InvalidInputError` where two labels begin with the same one, or a word melts into what is before it.
    """
    prompt = form.write(["a"], np.zeros(1, dtype=np.int32), [], 0)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    first: dict[int, str] = {}
    for word in form.label_words:
        answered = f"{form.text_prefix}a {form.label_prefix}{word}"
        ids = tokenizer(answered, add_special_tokens=False)["input_ids"]
        if ids[: len(before)] != before or len(ids) == len(before):
            raise InvalidInputError(
                f"the tokenizer joins '{prompt}' and the label '{word}' into one token. Give other --input.label-words "
                "or --input.label-prefix."
            )
        if (other := first.get(ids[len(before)])) is not None:
            raise InvalidInputError(
                f"the labels '{other}' and '{word}' begin with the same token, so the model's answers cannot be told "
                "apart. Give other --input.label-words."
            )
        first[ids[len(before)]] = word
    return tuple(first)


def prompt_tables(
    examples: Labelled, config: ExtractConfig, chosen: ICLInput, model: ModelSource, read: int | None
) -> Iterator[pa.Table]:
    """The prompts in order, tokenised, with the examples that they are made of and the query's label.

    `config.max_texts` of them, or one for each example. Those too long for the model are not replaced: with `sampled`
    demonstrations a larger k then has no query that a smaller one has not.

    Raises `InvalidInputError` where there are too few examples.
    """
    n = config.max_texts or len(examples.texts)
    drawer = (
        SampledPrompts(examples.texts, chosen.k, chosen.seed)
        if chosen.demonstrations == "sampled"
        else FixedPrompts(len(examples.texts), n, chosen.k, chosen.seed)
    )
    numbers = ray.data.range(n, override_num_blocks=-(-n // PROMPTS_PER_BLOCK))
    dataset = numbers.map_batches(
        partial(_write_prompts, examples=examples, drawer=drawer),
        batch_format="pyarrow",
        batch_size=None,
    )
    return tokenized(dataset, config, model, read, column="prompt", added=False)


def _write_prompts(table: pa.Table, examples: Labelled, drawer: SampledPrompts | FixedPrompts) -> pa.Table:
    drawn = [drawer.draw(i) for i in table["id"].to_pylist()]
    labels = examples.labels[[prompt.query for prompt in drawn]]
    written = [
        examples.format.write(examples.texts, examples.labels, prompt.demonstrations, prompt.query) for prompt in drawn
    ]
    return pa.table(
        {
            "prompt": pa.array(written, pa.string()),
            "query": pa.array([prompt.query for prompt in drawn], pa.int64()),
            "demonstrations": pa.array([prompt.demonstrations for prompt in drawn], pa.list_(pa.int64())),
            "label": pa.array(labels, pa.int32()),
            "label_token": pa.array(np.asarray(examples.label_tokens, dtype=np.int32)[labels], pa.int32()),
        }
    )
