"""In-context-learning prompts of a labelled corpus, and the tokens of their answers."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray
import ray.data
from transformers import PreTrainedTokenizerBase

from bae_ray.activations.bundled import BUNDLED_CORPORA
from bae_ray.activations.config import CorpusConfig, ExtractConfig, ICLInput
from bae_ray.activations.corpus import HubDataset, LocalFiles
from bae_ray.activations.dataset import read_corpus, tables, tasks, tokenized
from bae_ray.activations.model import ModelSource
from bae_ray.activations.prompts import FixedPrompts, PromptFormat, SampledPrompts
from bae_ray.activations.reading.blocks import LABEL, PLACE, TEXT
from bae_ray.activations.tokenising import tokenizer_of
from bae_ray.cluster import configure_data, connect
from bae_ray.errors import InvalidInputError
from bae_ray.progress import console

PROMPTS_PER_BLOCK = 1024


class Labelled(NamedTuple):
    """A labelled corpus with the format of its prompts."""

    texts: list[str]
    labels: np.ndarray[tuple[int], np.dtype[np.int32]]
    format: PromptFormat
    label_tokens: tuple[int, ...]
    """The token that begins each label's word after a prompt."""


def read_labelled(
    config: ExtractConfig, chosen: ICLInput, found: LocalFiles | HubDataset, model: ModelSource
) -> Labelled:
    """The labelled corpus in memory. Raises `InvalidInputError` if its labels are ambiguous."""
    connect()
    configure_data()
    read = list(tables(read_corpus(found, config, chosen.label_column), config))
    table = pa.concat_tables(read).drop_null() if read else pa.table({TEXT: [], LABEL: [], PLACE: []})
    if not len(table):
        raise InvalidInputError(
            f"corpus '{config.corpus}' has 0 examples with a text and a label. Give another, or name its columns "
            "with --text-column and --input.label-column."
        )
    if left_out := sum(map(len, read)) - len(table):
        console.print(f"Plan: {len(table)} examples; {left_out} without a text or a label are left out.")
    own = BUNDLED_CORPORA.get(config.corpus)
    words = chosen.label_words or (own.label_words if own else None)
    words, labels = numbered(table, found, words, config)
    form = PromptFormat(
        chosen.text_prefix if chosen.text_prefix is not None else own.text_prefix if own else "sentence: ",
        chosen.label_prefix if chosen.label_prefix is not None else own.label_prefix if own else "label: ",
        words,
    )
    return Labelled(table[TEXT].to_pylist(), labels, form, label_tokens(form, tokenizer_of(model)))


def _check_one_reading(labels: Sequence[str], words: tuple[str, ...], config: CorpusConfig) -> None:
    """Raise `InvalidInputError` where labels of a table of text may be label words as well as other words' numbers."""
    if not all(label.isdecimal() and label in words and int(label) < len(words) for label in labels):
        return
    for label in sorted(set(labels)):
        if words[int(label)] != label:
            raise InvalidInputError(
                f"label {label} of corpus '{config.corpus}' may be the label word '{label}', or the number of "
                f"'{words[int(label)]}' among {', '.join(words)}: files of this format do not say which. If it is the "
                "word, leave --input.label-words out; if it is the number, give the corpus as .jsonl, with labels that "
                "are numbers."
            )


def numbered(
    table: pa.Table, found: LocalFiles | HubDataset, words: tuple[str, ...] | None, config: CorpusConfig
) -> tuple[tuple[str, ...], np.ndarray[tuple[int], np.dtype[np.int32]]]:
    """The label words, by default the labels themselves, and the number of each label of the table among them.

    A label that is text must be one of the words. If none is, text that is a whole number counts as a number, since
    tables of text have no numbers. Raises `InvalidInputError` for labels that are none of the words, with their place,
    and for labels in a table of text that could be a word or a number.
    """
    labels, places = [json.loads(label) for label in table[LABEL].to_pylist()], table[PLACE]
    if words is not None and isinstance(found, LocalFiles) and found.are_tables_of_text:
        _check_one_reading(labels, words, config)
    kinds = [isinstance(label, str) for label in labels]
    if any(kinds) and not all(kinds):
        odd = kinds.index(not kinds[0])
        raise InvalidInputError(
            f"{places[odd]}: label {labels[odd]!r} is {'a word' if kinds[odd] else 'a number'}, but those before are "
            "not. Write all labels as words, or all as numbers."
        )
    written = list(map(str, labels))
    if words is None and not kinds[0]:
        raise InvalidInputError(
            f"the labels of corpus '{config.corpus}' are numbers: give the word for each with --input.label-words."
        )
    words = words or tuple(sorted(set(written)))
    if kinds[0] and (set(words) & set(written) or not all(map(str.isdecimal, written))):
        numbers = {word: number for number, word in enumerate(words)}
        if unknown := set(written) - set(words):
            first = next(i for i, label in enumerate(written) if label in unknown)
            raise InvalidInputError(
                f"{places[first]}: label '{written[first]}' is none of the label words {', '.join(words)}. Name all of "
                "them with --input.label-words."
            )
    else:
        numbers = {label: int(label) for label in set(written)}
        least, most = min(numbers.values()), max(numbers.values())
        if not 0 <= least <= most < len(words):
            raise InvalidInputError(
                f"labels of corpus '{config.corpus}' go from {least} to {most}, but there are {len(words)} label "
                f"words: {', '.join(words)}. Give one for each with --input.label-words."
            )
    return words, np.array([numbers[label] for label in written], dtype=np.int32)


def label_tokens(form: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token that begins each label's word after a prompt. Raises what `label_ids` does."""
    return tuple(ids[0] for ids in label_ids(form, tokenizer))


def label_ids(form: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], ...]:
    """All tokens of each label's word after a prompt.

    Raises `InvalidInputError` if two labels begin with the same token, or if the tokenizer joins a word to the text
    before it.
    """
    prompt = form.write(["a"], np.zeros(1, dtype=np.int32), [], 0)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    first: dict[int, str] = {}
    found: list[tuple[int, ...]] = []
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
        found.append(tuple(ids[len(before) :]))
    return tuple(found)


def prompt_tables(
    examples: Labelled, config: ExtractConfig, chosen: ICLInput, model: ModelSource, read: int | None, cpus: float
) -> Iterator[pa.Table]:
    """The prompts in order, tokenised, with the examples that they are made of and the query's label.

    `config.max_texts` of them, or one for each example. Prompts too long for the model are not replaced, so that with
    `sampled` demonstrations the queries of a larger k are among those of a smaller k.

    Raises `InvalidInputError` where there are too few examples.
    """
    n = config.max_texts or len(examples.texts)
    drawer = (
        SampledPrompts(examples.texts, chosen.k, chosen.seed)
        if chosen.demonstrations == "sampled"
        else FixedPrompts(len(examples.texts), n, chosen.k, chosen.seed)
    )
    starts = range(0, n, PROMPTS_PER_BLOCK)
    parts = ray.data.from_items([{"start": i, "n": n} for i in starts], override_num_blocks=len(starts))
    dataset = parts.map_batches(
        partial(_write_prompts, examples=examples, drawer=drawer),
        batch_format="pyarrow",
        batch_size=1,
        **tasks(cpus),
    )
    return tokenized(dataset, config, model, read, column="prompt", added=False, cpus=cpus)


def _write_prompts(table: pa.Table, examples: Labelled, drawer: SampledPrompts | FixedPrompts) -> pa.Table:
    start = table["start"][0].as_py()
    drawn = [drawer.draw(i) for i in range(start, min(start + PROMPTS_PER_BLOCK, table["n"][0].as_py()))]
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
