"""A corpus as a data set of Ray Data: files are read and texts tokenised in parallel, and come in order."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import ray.data

from bae_ray.activations.bundled import BUNDLED_CORPORA
from bae_ray.activations.config import CorpusConfig
from bae_ray.activations.corpus import HubDataset, LocalFiles
from bae_ray.activations.model import ModelSource
from bae_ray.activations.reading.blocks import PROBLEM, TEXT, Columns, blocks, file_blocks
from bae_ray.activations.reading.records import arrow_records
from bae_ray.activations.tokenising import tokenize
from bae_ray.cluster import configure_data, connect, total
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


def tasks(cpus: float) -> dict[str, Any]:
    """Options of an operator whose tasks take this many CPUs each.

    Tasks that take none are as many as the CPUs: workers hold all CPUs and wait for these tasks' output.
    """
    return {"num_cpus": cpus, "compute": ray.data.TaskPoolStrategy(size=None if cpus else max(1, int(total("CPU"))))}


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
    # Not from_huggingface, which may read the newest revision in place of this one.
    one = ray.data.from_items([{"dataset": 0}], override_num_blocks=1)
    return one.map_batches(
        partial(_read_streamed, dataset=selected, columns=columns, where=f"corpus '{source.name}'"),
        batch_size=None,
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(size=1),
    )


def _read_streamed(_: object, dataset: Any, columns: Columns, where: str) -> Iterator[pa.Table]:
    first = 0
    for table in dataset.with_format("arrow").iter(batch_size=TOKENIZED_AT_ONCE):
        yield from blocks(arrow_records(table, where, first), columns, where)
        first += len(table)


def tokenized(
    dataset: ray.data.Dataset,
    config: CorpusConfig,
    model: ModelSource,
    read: int | None,
    *,
    column: str = TEXT,
    added: bool = True,
    chat: bool = False,
    cpus: float = 1,
) -> Iterator[pa.Table]:
    """The texts of a data set in order, tokenised; `column` holds them. Each task takes `cpus` CPUs."""
    tokenized = dataset.map_batches(
        partial(tokenize, column=column, model=model, read=read, added=added, chat=chat),
        batch_format="pyarrow",
        batch_size=TOKENIZED_AT_ONCE,
        zero_copy_batch=True,
        **tasks(cpus),
    )
    return tables(tokenized, config)
