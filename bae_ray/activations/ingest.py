"""Tokenising a corpus with Ray Data, and cutting the texts that are long enough into the row files of the shards."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from pydantic import BaseModel
from transformers import PreTrainedTokenizerBase

from bae_ray.activations.config import CorpusConfig
from bae_ray.activations.corpus import HubDataset, LocalFiles
from bae_ray.activations.model import ModelSource, load_tokenizer
from bae_ray.activations.store import rows_file
from bae_ray.cluster import configure_data
from bae_ray.errors import NoTextLongEnoughError
from bae_ray.files import atomic_path, write_text
from bae_ray.progress import track

ROWS_SCHEMA = pa.schema([("text_id", pa.int64()), ("token_ids", pa.list_(pa.int32())), ("text", pa.string())])
INDEX = "rows/index.json"


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
    read = too_short = longest = 0
    sizes: list[int] = []
    pending: list[pa.Table] = []
    with track("Tokenising", config.max_texts) as tracker:
        for batch in _tokenized(source, config, model, length):
            n_tokens = batch["n_tokens"].to_numpy()
            keep = pa.array(n_tokens >= length)
            ids = pa.array(range(read, read + len(batch)), pa.int64())
            kept = pa.table({"text_id": ids, "token_ids": batch["token_ids"], "text": batch["text"]}).filter(keep)
            missing = config.max_texts - sum(sizes) - sum(map(len, pending))
            if len(kept) >= missing:  # the rest of the batch is not looked at, so not counted
                kept = kept.slice(0, missing)
                n_tokens = n_tokens[: kept["text_id"][-1].as_py() - read + 1]
            read += len(n_tokens)
            too_short += int((n_tokens < length).sum())
            longest = max(longest, int(n_tokens.max(initial=0)))
            tracker.advance(len(kept))
            pending.append(kept.cast(ROWS_SCHEMA))
            done = len(kept) == missing
            for table in _full_shards(pending, shard_size, flush=done):
                _write_shard_rows(store, len(sizes), table)
                sizes.append(len(table))
            if done:
                break
        else:
            for table in _full_shards(pending, shard_size, flush=True):
                _write_shard_rows(store, len(sizes), table)
                sizes.append(len(table))
    if not sizes:
        raise NoTextLongEnoughError(
            f"no text of corpus '{config.corpus}' is long enough for position {length - 1}: {length} tokens are needed, "
            f"the longest of {read} texts has {longest}. Ask for smaller positions, or give longer texts."
        )
    index = RowsIndex(texts_read=read, texts_too_short=too_short, rows_per_shard=tuple(sizes))
    write_text(index_file, index.model_dump_json(indent=2) + "\n")
    return index


def _full_shards(pending: list[pa.Table], shard_size: int, flush: bool) -> Iterator[pa.Table]:
    """Take whole shards off the pending rows; with `flush` also the last, smaller one."""
    table = pa.concat_tables(pending)
    pending.clear()
    while len(table) >= shard_size or (flush and len(table)):
        yield table.slice(0, shard_size)
        table = table.slice(shard_size)
    pending.append(table)


def _write_shard_rows(store: Path, shard: int, table: pa.Table) -> None:
    with atomic_path(store / rows_file(shard)) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _tokenized(
    source: LocalFiles | HubDataset, config: CorpusConfig, model: ModelSource, length: int
) -> Iterator[pa.Table]:
    """Tables (text, token_ids, n_tokens) over the whole corpus, in order; ids and counts end at `length`."""
    configure_data()
    dataset = _read(source, config).map_batches(
        tokenize,
        fn_kwargs={"column": config.text_column, "model": model, "length": length},
        batch_format="pyarrow",
        batch_size=1024,
        zero_copy_batch=True,
    )
    yield from dataset.iter_batches(batch_format="pyarrow", batch_size=None)


def tokenize(table: pa.Table, column: str, model: ModelSource, length: int) -> pa.Table:
    """A table (text, token_ids, n_tokens) for the texts in `column`; ids and counts end at `length`."""
    texts = [text or "" for text in table[column].to_pylist()]
    encoded = _tokenizer(model)(texts, truncation=True, max_length=length, return_attention_mask=False)
    ids: list[list[int]] = encoded["input_ids"] if texts else []
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

        loaded = datasets.load_dataset(source.name, config.subset, split=config.split, revision=source.sha)
        assert isinstance(loaded, datasets.Dataset)
        return ray.data.from_huggingface(loaded.select_columns([config.text_column]))
    paths = [str(path) for path in source.paths]
    if source.format == ".parquet":
        return ray.data.read_parquet(paths, columns=[config.text_column])
    if source.format == ".jsonl":
        return ray.data.read_json(paths, lines=True).select_columns([config.text_column])
    return ray.data.read_text(paths).rename_columns({"text": config.text_column})
