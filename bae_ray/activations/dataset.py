"""A corpus as a data set of Ray Data: files are read in parallel, texts are tokenised, and all come in order."""

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import cast

import pyarrow as pa
import ray.data
from transformers import PreTrainedTokenizerBase

from bae_ray.activations.bundled import BUNDLED_CORPORA
from bae_ray.activations.config import CorpusConfig
from bae_ray.activations.corpus import HubDataset, LocalFiles
from bae_ray.activations.model import ModelSource, load_tokenizer
from bae_ray.activations.reading.blocks import PLACE, PROBLEM, TEXT, Columns, blocks, file_blocks
from bae_ray.activations.reading.records import arrow_records
from bae_ray.cluster import configure_data, connect
from bae_ray.errors import UnknownCorpusError, UnreadableFileError, first_line

READERS = 8
"""Number of files that are read at a time."""
TOKENIZED_AT_ONCE = 1024


def tables(dataset: ray.data.Dataset, config: CorpusConfig) -> Iterator[pa.Table]:
    """The rows of a data set in order. Raises `UnreadableFileError` at the first row with a problem."""
    batches = cast(Generator[pa.Table, None, None], iter(dataset.iter_batches(batch_format="pyarrow", batch_size=None)))
    with closing(batches):  # whatever is read ahead of the last wanted text is given up at once
        while (table := _next(batches, config)) is not None:
            if PROBLEM not in table.column_names:
                yield table
                continue
            problems, table = table[PROBLEM].to_pylist(), table.drop_columns([PROBLEM])
            first = next((i for i, problem in enumerate(problems) if problem is not None), None)
            yield table.slice(0, first)
            if first is not None:
                raise UnreadableFileError(problems[first])


def _next(batches: Iterator[pa.Table], config: CorpusConfig) -> pa.Table | None:
    try:
        return next(batches, None)
    except Exception as error:  # Ray's: a worker was killed, say
        cause = getattr(error, "cause", None) or error
        raise UnreadableFileError(f"corpus '{config.corpus}' cannot be read to its end: {first_line(cause)}") from error


def read_corpus(source: LocalFiles | HubDataset, config: CorpusConfig, label: str | None = None) -> ray.data.Dataset:
    """The texts of a corpus, and their labels if the column is named, as `reading.blocks` gives them."""
    connect()
    configure_data()  # before the data set is made: it keeps the settings of that moment
    if isinstance(source, HubDataset):
        return _read_hub(source, config, label)
    if config.corpus in BUNDLED_CORPORA:  # from this machine's cache, which the cluster's other machines cannot read
        return ray.data.from_arrow(list(file_blocks(source.paths[0], source.columns)))
    files = ray.data.from_items([{"file": i} for i in range(len(source.paths))], override_num_blocks=len(source.paths))
    return files.map_batches(
        partial(_read_file, paths=source.paths, columns=source.columns),
        batch_size=1,
        batch_format="pyarrow",
        # No CPU is counted, so that a file that is read never waits for those who tokenise it, nor they for it.
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(size=min(READERS, len(source.paths))),
    )


def _read_file(batch: pa.Table, paths: Sequence[Path], columns: Columns) -> Iterator[pa.Table]:
    return file_blocks(paths[batch["file"][0].as_py()], columns)


def _read_hub(source: HubDataset, config: CorpusConfig, label: str | None) -> ray.data.Dataset:
    import datasets

    columns = Columns(config.text_column, label)
    try:
        loaded = datasets.load_dataset(
            source.name, config.subset, split=config.split, revision=source.sha, streaming=True
        )  # streamed: nothing past the last wanted text is downloaded
        selected = loaded.select_columns(columns.names)
    except ValueError as error:  # no such subset, split or column; the message lists those there are
        raise UnknownCorpusError(f"corpus '{config.corpus}': {error}") from error
    return ray.data.from_huggingface(selected).map_batches(
        partial(_rows_of, columns=columns, where=f"corpus '{source.name}'"), batch_format="pyarrow", batch_size=None
    )


def _rows_of(table: pa.Table, columns: Columns, where: str) -> Iterator[pa.Table]:
    return blocks(arrow_records(table, f"a block of {where}", 0), columns, where)


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
