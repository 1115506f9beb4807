"""From a corpus to the rows files of the shards: what is tokenised, which texts are kept, where shards are cut."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.layout import RowsIndex, ShardRows
from bae_ray.activations.ragged import Ints, Ragged
from bae_ray.activations.selection import Lengths, taken_tokens
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import NoTextLongEnoughError
from bae_ray.progress import track

ROWS_SCHEMA = pa.schema([("text_id", pa.int64()), ("token_ids", pa.list_(pa.int32())), ("text", pa.string())])
"""What every rows file holds; `kept` with position all, and what the kind of the texts adds, come after."""
KEPT = pa.field("kept", pa.list_(pa.int32()))


def write_rows(
    writer: StoreWriter,
    tables: Iterator[pa.Table],
    config: ExtractConfig,
    wanted: Lengths,
    special: frozenset[int],
    bytes_per_vector: int,
) -> RowsIndex:
    """Write the rows of the first `config.max_texts` texts that are long enough, cut into shards.

    `tables` hold token_ids, text and what their kind adds, in the order of the corpus; texts are numbered in it.
    `bytes_per_vector` is what one vector of every cell takes. Raises `NoTextLongEnoughError`.
    """
    counts = _Counts()
    shards: list[ShardRows] = []
    largest = max(1, config.shard_mb * 10**6 // bytes_per_vector)
    with track("Tokenising", config.max_texts) as tracker:
        texts = _long_enough(tables, wanted, config.max_texts, counts)
        if "all" in config.all_positions:
            texts = _with_taken_tokens(texts, config, special, counts)
        for rows in _cut(texts, config.shard_size, largest):
            tokens = len(Ragged.of(rows["token_ids"]).values)
            shards.append(writer.write_rows(len(shards), rows, int(_vectors(rows).sum()), tokens))
            tracker.advance(len(rows))
    if not shards:
        raise NoTextLongEnoughError(_nothing_kept(config, wanted, counts))
    index = RowsIndex(
        texts_read=counts.read,
        texts_too_short=counts.too_short,
        texts_too_long=counts.too_long,
        shards=tuple(shards),
    )
    writer.write_index(index)
    return index


@dataclass
class _Counts:
    """What was seen of the corpus."""

    read: int = 0
    too_short: int = 0
    too_long: int = 0
    longest: int = 0
    full: bool = False
    """Whether the wanted number of vectors is reached."""


def _nothing_kept(config: ExtractConfig, wanted: Lengths, counts: _Counts) -> str:
    if counts.too_long:
        return (
            f"no text of corpus '{config.corpus}' can be used: {counts.too_long} of {counts.read} are longer than "
            f"{wanted.most} tokens, so their last token has no vector. Give a larger --max-tokens, or shorter texts."
        )
    if counts.longest >= wanted.least:
        return (
            f"corpus '{config.corpus}' has no token to take: the options --tokens leave none in its {counts.read} "
            "texts. Allow special or first tokens."
        )
    return (
        f"no text of corpus '{config.corpus}' reaches position {wanted.least - 1}, which takes {wanted.least} tokens: "
        f"the longest of {counts.read} texts has {counts.longest}. Ask for smaller positions, or give longer texts."
    )


def _long_enough(tables: Iterator[pa.Table], wanted: Lengths, limit: int | None, counts: _Counts) -> Iterator[pa.Table]:
    """The first `limit` texts of a length wanted, numbered; reads no further than the last."""
    missing = limit if limit is not None else sys.maxsize
    while missing and not counts.full and (table := next(tables, None)) is not None:
        lengths = Ragged.of(table["token_ids"]).lengths
        fits = (lengths >= wanted.least) & (lengths <= (wanted.most if wanted.most is not None else sys.maxsize))
        (fitting,) = np.nonzero(fits)
        if len(fitting) >= missing:
            fitting = fitting[:missing]
            lengths = lengths[: fitting[-1] + 1]
        text_ids = pa.array(counts.read + fitting, pa.int64())
        counts.read += len(lengths)
        short = int((lengths < wanted.least).sum())
        counts.too_short += short
        counts.too_long += len(lengths) - short - len(fitting)
        counts.longest = max(counts.longest, int(lengths.max(initial=0)))
        missing -= len(fitting)
        taken = table.take(pa.array(fitting))
        added = taken.drop_columns(["token_ids", "text"])
        columns = [text_ids, taken["token_ids"], taken["text"], *added.columns]
        yield pa.table(columns, schema=pa.schema([*ROWS_SCHEMA, *added.schema]))


def _with_taken_tokens(
    tables: Iterator[pa.Table], config: ExtractConfig, special: frozenset[int], counts: _Counts
) -> Iterator[pa.Table]:
    """The same texts with the positions of their tokens that are taken, up to the wanted number of vectors."""
    missing = config.tokens.max_vectors if config.tokens.max_vectors is not None else sys.maxsize
    for table in tables:
        token_ids = Ragged.of(table["token_ids"])
        kept: list[Ints] = []
        for i, text_id in enumerate(table["text_id"].to_pylist()):
            kept.append(taken_tokens(token_ids.list(i), text_id, config.tokens, special)[:missing])
            missing -= len(kept[-1])
        some = np.array([len(positions) > 0 for positions in kept])
        if missing:
            counts.too_short += int((~some).sum())
        counts.full = not missing
        yield table.append_column(KEPT, pa.array(kept, KEPT.type)).filter(pa.array(some))
        if counts.full:
            return


def _vectors(rows: pa.Table) -> Ints:
    """How many vectors each text gives a cell."""
    if KEPT.name not in rows.column_names:
        return np.ones(len(rows), dtype=np.int64)
    return Ragged.of(rows[KEPT.name]).lengths


def _cut(tables: Iterator[pa.Table], size: int, most_vectors: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size` rows, or fewer where they would give more than `most_vectors` vectors."""
    pending: list[pa.Table] = []
    for table in tables:
        rows = pa.concat_tables([*pending, table])
        while (end := _first_cut(rows, size, most_vectors)) is not None:
            yield rows.slice(0, end)
            rows = rows.slice(end)
        pending = [rows]
    if pending and len(pending[0]):
        yield pending[0]


def _first_cut(rows: pa.Table, size: int, most_vectors: int) -> int | None:
    """How many rows make the first shard; None where further rows may still belong to it."""
    ends = np.cumsum(_vectors(rows.slice(0, size)))
    fitting = max(1, int(np.searchsorted(ends, most_vectors, side="right")))
    return fitting if fitting < len(ends) or fitting == size else None
