"""From a corpus to the rows files of the shards: what is tokenised, which texts are kept, where shards are cut."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from bae_ray.activations.config import ExtractConfig, Position, TokensConfig
from bae_ray.activations.layout import RowsIndex, ShardRows, WindowedTexts
from bae_ray.activations.ragged import Ints, Ragged
from bae_ray.activations.shard_stream import Cut
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import NoTextLongEnoughError

ROWS_SCHEMA = pa.schema([("text_id", pa.int64()), ("token_ids", pa.list_(pa.int32())), ("text", pa.string())])
"""Columns of every rows file; `kept`, with position all, and the columns of the kind of input follow."""
KEPT = pa.field("kept", pa.list_(pa.int32()))


class Lengths(NamedTuple):
    """Limits that the positions set to the length of a text, in tokens."""

    least: int
    """Shorter texts are left out."""
    most: int | None
    """Longer texts are left out: their last token is out of reach. None: no limit."""
    cut: int | None
    """Longer texts are cut: in a causal model later tokens change nothing before them. None: never."""

    @property
    def read(self) -> int | None:
        """How many tokens of a text have to be known. None: all."""
        return self.cut if self.most is None else self.most + 1


def lengths(positions: Sequence[Position], longest: int | None, whole: bool = False) -> Lengths:
    """The limits of these positions, for a model of at most `longest` tokens.

    `whole`: texts are never cut, since the model has to predict what follows them.
    """
    least = 1 + max((position for position in positions if isinstance(position, int)), default=0)
    if whole or "last" in positions:
        return Lengths(least, longest, None)
    return Lengths(least, None, longest if "all" in positions else least)


def taken_tokens(ids: Ints, text_id: int, config: TokensConfig, special: frozenset[int]) -> Ints:
    """The positions of one text whose tokens are taken, in order, for position `all`."""
    wanted = np.ones(len(ids), dtype=bool)
    if not config.first:
        wanted[:1] = False
    if not config.special:
        wanted &= ~np.isin(ids, list(special))
    (positions,) = np.nonzero(wanted)
    if config.per_text is not None and len(positions) > config.per_text:
        drawn = np.random.default_rng((config.seed, text_id)).choice(len(positions), config.per_text, replace=False)
        positions = positions[np.sort(drawn)]
    return positions


def write_rows(
    writer: StoreWriter,
    tables: Iterator[pa.Table],
    config: ExtractConfig,
    wanted: Lengths,
    special: frozenset[int],
    bytes_per_vector: int,
    windowed: WindowedTexts | None = None,
) -> Cut:
    """Write the rows of the first `config.max_texts` texts that are long enough, cut into shards.

    Yields each shard's number and rows as soon as they are written; returns the index, which is written last. `tables`
    hold token_ids, text and the columns of their kind, in the order of the corpus, which numbers the texts.
    `bytes_per_vector` is the size of one vector of every cell; `windowed` counts the texts that windows are cut out of.
    Raises `NoTextLongEnoughError`.
    """
    counts = _Counts()
    shards: list[ShardRows] = []
    largest = max(1, config.shard_mb * 10**6 // bytes_per_vector)
    texts = _chosen(tables, config, wanted, special, counts)
    for rows in _cut(texts, config.shard_size, largest):
        tokens = len(Ragged.of(rows["token_ids"]).values)
        shards.append(writer.write_rows(len(shards), rows, int(_vectors(rows).sum()), tokens))
        yield len(shards) - 1, shards[-1]
    if not shards:
        raise NoTextLongEnoughError(_nothing_kept(config, wanted, counts))
    index = RowsIndex(
        texts_read=counts.read,
        texts_too_short=counts.too_short,
        texts_too_long=counts.too_long,
        texts_empty=counts.empty,
        windowed=windowed,
        shards=tuple(shards),
    )
    writer.write_index(index)
    return index


@dataclass
class _Counts:
    """Counts of the texts of the corpus."""

    read: int = 0
    too_short: int = 0
    too_long: int = 0
    empty: int = 0
    longest: int = 0

    def add(self, lengths: Ints, wanted: Lengths, used: int) -> None:
        """Count the next texts, of which so many are used; those that fit but give no vector count as too short."""
        too_long = int((lengths > wanted.most).sum()) if wanted.most is not None else 0
        self.read += len(lengths)
        self.too_long += too_long
        self.too_short += len(lengths) - too_long - used
        self.longest = max(self.longest, int(lengths.max(initial=0)))


def _nothing_kept(config: ExtractConfig, wanted: Lengths, counts: _Counts) -> str:
    if counts.too_long:
        return (
            f"no text of corpus '{config.corpus}' can be used: {counts.too_long} of {counts.read} are longer than "
            f"{wanted.most} tokens, so their last token has no vector. Give a larger --max-tokens, or shorter texts."
        )
    if counts.read and counts.empty == counts.read:
        return f"all {counts.read} texts of corpus '{config.corpus}' are null, empty or blank. Name another column."
    if counts.longest >= wanted.least:
        return (
            f"corpus '{config.corpus}' has no token to take: the options --tokens leave none in its {counts.read} "
            "texts. Allow special or first tokens."
        )
    if not counts.read:
        return f"corpus '{config.corpus}' has no text, or too little to fill one window of the wanted length."
    return (
        f"no text of corpus '{config.corpus}' reaches position {wanted.least - 1}, which takes {wanted.least} tokens: "
        f"the longest of {counts.read} texts has {counts.longest}. Ask for smaller positions, or give longer texts."
    )


def _chosen(
    tables: Iterator[pa.Table], config: ExtractConfig, wanted: Lengths, special: frozenset[int], counts: _Counts
) -> Iterator[pa.Table]:
    """The first texts that give a vector, numbered, up to the wanted number of texts and of vectors.

    However the corpus is cut into tables, the texts and the counts are the same: nothing past the last text counts.
    """
    every = "all" in config.all_positions
    texts_left = config.max_texts if config.max_texts is not None else sys.maxsize
    vectors_left = config.tokens.max_vectors if config.tokens.max_vectors is not None else sys.maxsize
    while texts_left > 0 and vectors_left > 0 and (table := next(tables, None)) is not None:
        token_ids = Ragged.of(table["token_ids"])
        lengths = token_ids.lengths
        fits = (lengths >= wanted.least) & (lengths <= (wanted.most if wanted.most is not None else sys.maxsize))
        given = fits.astype(np.int64)
        kept: list[Ints] = []
        if every:
            kept = [
                taken_tokens(token_ids.list(i), counts.read + i, config.tokens, special) if fits[i] else lengths[:0]
                for i in range(len(table))
            ]
            given = np.array([len(positions) for positions in kept], dtype=np.int64)
        enough = (np.cumsum(given > 0) >= texts_left) | (np.cumsum(given) >= vectors_left)
        end = int(enough.argmax()) + 1 if enough.any() else len(table)
        (used,) = np.nonzero(given[:end])
        text_ids = pa.array(counts.read + used, pa.int64())
        counts.add(lengths[:end], wanted, len(used))
        counts.empty += table["text"].slice(0, end).null_count
        texts_left -= len(used)
        vectors_left -= int(given[:end].sum())
        if vectors_left < 0:
            kept[used[-1]] = kept[used[-1]][:vectors_left]
        taken = table.take(pa.array(used))
        added = taken.drop_columns(["token_ids", "text"])
        columns = [text_ids, taken["token_ids"], taken["text"], *added.columns]
        rows = pa.table(columns, schema=pa.schema([*ROWS_SCHEMA, *added.schema]))
        yield rows.append_column(KEPT, pa.array([kept[i] for i in used], KEPT.type)) if every else rows


def _vectors(rows: pa.Table) -> Ints:
    """Number of vectors of each text in a cell."""
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
    """Number of rows of the first shard; None where further rows may belong to it."""
    if not len(rows):
        return None
    ends = np.cumsum(_vectors(rows.slice(0, size)))
    fitting = max(1, int(np.searchsorted(ends, most_vectors, side="right")))
    return fitting if fitting < len(ends) or fitting == size else None
