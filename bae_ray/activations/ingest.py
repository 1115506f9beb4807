"""Tokenising a corpus with Ray Data, and cutting the texts that are long enough into the row files of the shards."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from pydantic import BaseModel
from transformers import PreTrainedTokenizerBase

from bae_ray.activations.bundled import BUNDLED_CORPORA
from bae_ray.activations.config import CorpusConfig
from bae_ray.activations.corpus import HubDataset, LocalFiles
from bae_ray.activations.model import ModelSource, load_tokenizer
from bae_ray.activations.store import rows_file
from bae_ray.cluster import configure_data
from bae_ray.errors import NoTextLongEnoughError, UnknownCorpusError, UnreadableFileError
from bae_ray.files import atomic_path, write_text
from bae_ray.progress import track

ROWS_SCHEMA = pa.schema([("text_id", pa.int64()), ("token_ids", pa.list_(pa.int32())), ("text", pa.string())])
INDEX = "rows.json"
BLOCK_ROWS = 8192


class RowsIndex(BaseModel):
    """What was found in the corpus; written when every row file is."""

    texts_read: int
    texts_too_short: int
    rows_per_shard: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of texts kept."""
        return sum(self.rows_per_shard)


def write_rows(
    store: Path, source: LocalFiles | HubDataset, config: CorpusConfig, model: ModelSource, length: int, shard_size: int
) -> RowsIndex:
    """Write the rows of the first `config.max_texts` texts that have `length` tokens or more, `shard_size` per file.

    Token ids are cut to `length`: in a causal model later tokens change nothing before them. Texts are numbered in
    the order of the corpus. Rows that an earlier call has written are kept. Raises `NoTextLongEnoughError`.
    """
    index_file = store / INDEX
    if index_file.exists():
        index = RowsIndex.model_validate_json(index_file.read_text(encoding="utf-8"))
        if all((store / rows_file(shard)).exists() for shard in range(len(index.rows_per_shard))):
            return index
    counts = _Counts()
    sizes: list[int] = []
    with track("Tokenising", config.max_texts) as tracker:
        texts = _long_enough(_tokenized(source, config, model, length), length, config.max_texts, counts)
        for shard, rows in enumerate(_regroup(texts, shard_size)):
            with atomic_path(store / rows_file(shard)) as temporary:
                pq.write_table(rows, temporary, compression="zstd")
            sizes.append(len(rows))
            tracker.advance(len(rows))
    if not sizes:
        raise NoTextLongEnoughError(
            f"no text of corpus '{config.corpus}' reaches position {length - 1}, which takes {length} tokens: "
            f"the longest of {counts.read} texts has {counts.longest}. Ask for smaller positions, or give longer texts."
        )
    index = RowsIndex(texts_read=counts.read, texts_too_short=counts.too_short, rows_per_shard=tuple(sizes))
    write_text(index_file, index.model_dump_json(indent=2) + "\n")
    return index


@dataclass
class _Counts:
    """What was seen of the corpus."""

    read: int = 0
    too_short: int = 0
    longest: int = 0


def _long_enough(batches: Iterator[pa.Table], length: int, limit: int | None, counts: _Counts) -> Iterator[pa.Table]:
    """The first `limit` texts of `length` tokens or more, as rows of `ROWS_SCHEMA`; reads no further than the last."""
    missing = limit if limit is not None else sys.maxsize
    while missing and (batch := next(batches, None)) is not None:
        n_tokens = batch["n_tokens"].to_numpy()
        (fitting,) = np.nonzero(n_tokens >= length)
        if len(fitting) >= missing:
            fitting = fitting[:missing]
            n_tokens = n_tokens[: fitting[-1] + 1]
        text_ids = pa.array(counts.read + fitting, pa.int64())
        counts.read += len(n_tokens)
        counts.too_short += len(n_tokens) - len(fitting)
        counts.longest = max(counts.longest, int(n_tokens.max(initial=0)))
        missing -= len(fitting)
        taken = batch.take(pa.array(fitting))
        yield pa.table([text_ids, taken["token_ids"], taken["text"]], schema=ROWS_SCHEMA)


def _regroup(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size` rows; the last may have fewer."""
    pending = ROWS_SCHEMA.empty_table()
    for table in tables:
        pending = pa.concat_tables([pending, table])
        while len(pending) >= size:
            yield pending.slice(0, size)
            pending = pending.slice(size)
    if len(pending):
        yield pending


def _tokenized(
    source: LocalFiles | HubDataset, config: CorpusConfig, model: ModelSource, length: int
) -> Iterator[pa.Table]:
    """Tables (text, token_ids, n_tokens) over the whole corpus, in order; ids and counts end at `length`."""
    configure_data()
    dataset = _read(source, config).map_batches(
        partial(tokenize, column=config.text_column, model=model, length=length),
        batch_format="pyarrow",
        batch_size=1024,
        zero_copy_batch=True,
    )
    try:
        yield from dataset.iter_batches(batch_format="pyarrow", batch_size=None)
    except Exception as error:  # Ray's, around whatever the reader of the format raised
        cause = getattr(error, "cause", None) or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UnreadableFileError(f"corpus '{config.corpus}' cannot be read to its end: {reason}") from error


def tokenize(table: pa.Table, column: str, model: ModelSource, length: int) -> pa.Table:
    """A table (text, token_ids, n_tokens) for the texts in `column`; ids and counts end at `length`."""
    texts = [text or "" for text in table[column].to_pylist()]
    tokenizer = _tokenizer(model)
    tokenizer.truncation_side = "right"
    # Tokenizers that end a text with a special token put it after the truncated text: cut only beyond it.
    cut = length + tokenizer.num_special_tokens_to_add()
    encoded = tokenizer(texts, truncation=True, max_length=cut, return_attention_mask=False)
    ids: list[list[int]] = [row[:length] for row in encoded["input_ids"]] if texts else []
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "token_ids": pa.array(ids, pa.list_(pa.int32())),
            "n_tokens": pa.array([len(row) for row in ids], pa.int32()),
        }
    )


@lru_cache(maxsize=1)
def _tokenizer(model: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer, loaded once per process."""
    return load_tokenizer(model)


def _read(source: LocalFiles | HubDataset, config: CorpusConfig) -> ray.data.Dataset:
    if isinstance(source, HubDataset):
        import datasets

        try:
            loaded = datasets.load_dataset(
                source.name, config.subset, split=config.split, revision=source.sha, streaming=True
            )  # streamed: nothing past the last wanted text is downloaded
            selected = loaded.select_columns([config.text_column])
        except ValueError as error:  # no such subset, split or column; the message lists those there are
            raise UnknownCorpusError(f"corpus '{config.corpus}': {error}") from error
        return ray.data.from_huggingface(selected)
    if config.corpus in BUNDLED_CORPORA:  # from this machine's cache, which the cluster's other machines cannot read
        table = pq.read_table(source.paths[0], columns=[config.text_column])
        return ray.data.from_arrow([table.slice(start, BLOCK_ROWS) for start in range(0, len(table), BLOCK_ROWS)])
    paths = [str(path) for path in source.paths]
    if source.format == ".parquet":
        dataset = ray.data.read_parquet(paths)
    elif source.format == ".jsonl":
        dataset = ray.data.read_json(paths, lines=True)
    else:
        dataset = ray.data.read_text(paths).rename_columns({"text": config.text_column})
    return dataset.select_columns([config.text_column])
