"""Which texts and tokens are kept, and where shards are cut, whatever the batches of the reader."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bae_ray.activations.config import ExtractConfig, TokensConfig
from bae_ray.activations.ingest import KEPT, ROWS_SCHEMA, Lengths, _chosen, _Counts, _cut, lengths, write_rows
from bae_ray.activations.layout import ROWS_INDEX, RowsIndex, rows_file
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import CorruptShardError, NoTextLongEnoughError
from bae_ray.storage import folder_at
from tests.activations.source_tables import index_of

Batches = Sequence[Sequence[Sequence[int]]]
"""Token ids of texts, as they come from the reader."""
BATCHES = st.lists(st.lists(st.lists(st.integers(0, 3), max_size=8), max_size=6), max_size=6)


EMPTY = pa.schema([*ROWS_SCHEMA, pa.field("label", pa.int32())]).empty_table()


class Reader(Iterator[pa.Table]):
    """The batches as tables, one at a time; counts those that were asked for."""

    def __init__(self, batches: Batches) -> None:
        self.read = 0
        self._batches = batches

    def __next__(self) -> pa.Table:
        if self.read == len(self._batches):
            raise StopIteration
        batch = self._batches[self.read]
        self.read += 1
        return pa.table(
            {
                "text": pa.array([str(list(ids)) for ids in batch], pa.string()),
                "token_ids": pa.array(batch, pa.list_(pa.int32())),
                "label": pa.array([len(ids) for ids in batch], pa.int32()),
            }
        )


def write(
    store: Path | str, batches: Batches | Reader, *positions: Any, longest: int | None = None,
    special: frozenset[int] = frozenset(), bytes_per_vector: int = 4, **options: Any
) -> RowsIndex:  # fmt: skip
    config = ExtractConfig(corpus="texts", positions=positions, **options)
    tables = batches if isinstance(batches, Reader) else Reader(batches)
    wanted = lengths(config.all_positions, longest)
    return index_of(write_rows(StoreWriter(folder_at(store)), tables, config, wanted, special, bytes_per_vector))


def shards_of(store: Path | str, index: RowsIndex) -> list[pa.Table]:
    writer = StoreWriter(folder_at(store))
    return [writer.read_rows(i, shard.file) for i, shard in enumerate(index.shards)]


@given(BATCHES, st.integers(1, 5), st.none() | st.integers(3, 7), st.none() | st.integers(2, 12))
@settings(deadline=None)
def test_kept_are_the_first_texts_of_a_length_wanted(batches: Batches, least: int, most: int | None, limit: int | None):
    """Whatever the batches of the reader, and the counts agree; nothing is read past the last one."""
    assume(most is None or most >= least)  # else no position is within reach, which is refused before
    counts, reader = _Counts(), Reader(batches)
    config = ExtractConfig(positions=(least - 1,), max_texts=limit)
    rows = pa.concat_tables([EMPTY, *_chosen(reader, config, Lengths(least, most, None), frozenset(), counts)])
    texts = [ids for batch in batches for ids in batch]
    expected = [i for i, ids in enumerate(texts) if least <= len(ids) <= (most or 99)][:limit]
    reached = limit is not None and len(expected) == limit
    seen = [len(ids) for ids in (texts[: expected[-1] + 1] if reached else texts)]
    assert rows["text_id"].to_pylist() == expected
    assert rows["token_ids"].to_pylist() == [texts[i] for i in expected]
    assert rows["label"].to_pylist() == [len(texts[i]) for i in expected]
    assert counts.read == len(seen)
    assert counts.too_short == sum(size < least for size in seen)
    assert counts.too_long == sum(size > (most or 99) for size in seen)
    if not expected:
        assert counts.longest == max(seen, default=0)
    sizes = [len(batch) for batch in batches]
    needed = (i for i in range(1, len(batches) + 1) if reached and sum(sizes[:i]) >= len(seen))
    assert reader.read == next(needed, len(batches))


@given(
    BATCHES,
    st.booleans(), st.booleans(), st.frozensets(st.integers(0, 3), max_size=2),
    st.none() | st.integers(2, 30), st.none() | st.integers(2, 9),
)  # fmt: skip
@settings(deadline=None)
def test_tokens_are_taken_up_to_the_wanted_number(
    batches: Batches, first: bool, special: bool, specials: frozenset[int], most: int | None, limit: int | None
):
    """The last text is cut where the number is reached, and nothing is read past it."""
    expected: list[tuple[int, list[int]]] = []
    seen = needed = 0
    left = most or 10**6
    for batch in batches:
        if not left or len(expected) == limit:
            break
        needed += 1
        for ids in batch:
            if not left or len(expected) == limit:
                break
            kept = [i for i, token in enumerate(ids) if (first or i > 0) and (special or token not in specials)][:left]
            left -= len(kept)
            if kept:
                expected.append((seen, kept))
            seen += 1
    reader, config = Reader(batches), TokensConfig(first=first, special=special, max_vectors=most)
    with TemporaryDirectory() as store:
        options: dict[str, Any] = {"tokens": config, "max_texts": limit, "shard_size": 4}
        if not expected:
            with pytest.raises(NoTextLongEnoughError):
                write(store, reader, "all", special=specials, **options)
            return
        index = write(store, reader, "all", special=specials, **options)
        rows = pa.concat_tables(shards_of(store, index))
    assert list(zip(rows["text_id"].to_pylist(), rows["kept"].to_pylist(), strict=True)) == expected
    assert reader.read == needed
    assert index.n == sum(len(kept) for _, kept in expected)
    assert (index.texts, index.texts_read, index.texts_too_short) == (len(expected), seen, seen - len(expected))
    assert index.texts_too_long == 0


def test_so_many_tokens_of_each_text(tmp_path: Path):
    texts = [list(range(size)) for size in (9, 2, 0, 30, 1, 3, 12)]
    options: dict[str, Any] = {"tokens": TokensConfig(per_text=3, seed=4, first=False)}
    at_once = shards_of(tmp_path / "a", write(tmp_path / "a", [texts], "all", **options))[0]
    assert at_once["text_id"].to_pylist() == [0, 1, 3, 5, 6]
    for kept, size in zip(at_once["kept"].to_pylist(), (9, 2, 30, 3, 12), strict=True):
        assert len(kept) == min(3, size - 1)
        assert kept == sorted(set(kept) & set(range(1, size)))
    one_by_one = shards_of(tmp_path / "b", write(tmp_path / "b", [[text] for text in texts], "all", **options))[0]
    assert one_by_one.equals(at_once)


def test_rows_hold_what_the_kind_of_the_texts_adds(tmp_path: Path):
    index = write(tmp_path / "a", [[[1, 2], [3]]], 0)
    assert [table.schema for table in shards_of(tmp_path / "a", index)] == [EMPTY.schema]
    index = write(tmp_path / "b", [[[1, 2], [3]]], "all")
    assert [table.to_pydict() for table in shards_of(tmp_path / "b", index)] == [
        {
            "text_id": [0, 1],
            "token_ids": [[1, 2], [3]],
            "text": ["[1, 2]", "[3]"],
            "label": [2, 1],
            "kept": [[0, 1], [0]],
        }
    ]


def cut(vectors: Sequence[int], size: int, most_vectors: int) -> list[list[int]]:
    """Numbers of the rows of each shard: each takes rows as long as they fit."""
    shards: list[list[int]] = []
    left = 0
    for row, n in enumerate(vectors):
        if not shards or len(shards[-1]) == size or n > left:
            shards.append([])
            left = most_vectors
        shards[-1].append(row)
        left -= n
    return shards


@given(
    st.lists(st.lists(st.integers(1, 6), max_size=6), max_size=6), st.integers(1, 7), st.integers(1, 14), st.booleans()
)
@settings(deadline=None)
def test_shards_are_as_full_as_they_may_be(batches: list[list[int]], size: int, most_vectors: int, all_tokens: bool):
    """No shard has more rows, or more vectors unless it is a single row's: whatever the batches of the reader."""
    tables: list[pa.Table] = []
    start = 0
    for batch in batches:
        table = pa.table({"text_id": pa.array(range(start, start + len(batch)), pa.int64())})
        kept = pa.array([list(range(n)) for n in batch], KEPT.type)
        tables.append(table.append_column(KEPT, kept) if all_tokens else table)
        start += len(batch)
    shards = list(islice(_cut(iter(tables), size, most_vectors), start + 1))
    vectors = [n if all_tokens else 1 for batch in batches for n in batch]
    found = [shard["text_id"].to_pylist() for shard in shards]
    assert found == cut(vectors, size, most_vectors)
    if shards:
        assert pa.concat_tables(shards).equals(pa.concat_tables(tables))
    for rows in found:
        assert 1 <= len(rows) <= size
        assert len(rows) == 1 or sum(vectors[row] for row in rows) <= most_vectors


def test_shards_are_cut_at_so_many_megabytes(tmp_path: Path):
    """A vector of every cell takes 0.1 MB: ten of them fit."""
    texts = [[1] * size for size in (4, 4, 4, 25, 1, 1, 1, 1, 1, 9)]
    options: dict[str, Any] = {"shard_mb": 1, "bytes_per_vector": 10**5}
    index = write(tmp_path / "a", [texts], "all", shard_size=4, **options)
    expected = [(2, 8), (1, 4), (1, 25), (4, 4), (2, 10)]
    assert [(shard.texts, shard.n) for shard in index.shards] == expected
    assert [
        (len(shard), len(shard["kept"].combine_chunks().flatten())) for shard in shards_of(tmp_path / "a", index)
    ] == (expected)
    index = write(tmp_path / "b", [texts[:3] * 5], 0, "last", **options)
    assert [(shard.texts, shard.n, shard.tokens) for shard in index.shards] == [(10, 10, 40), (5, 5, 20)]
    index = write(tmp_path / "c", [texts[:2]], 0, shard_mb=1, bytes_per_vector=10**9)
    assert [shard.texts for shard in index.shards] == [1, 1]


def test_rows_that_are_written_are_found_again(tmp_path: Path):
    writer = StoreWriter(folder_at(tmp_path))
    assert writer.index() is None
    index = write(tmp_path, [[[1, 2], [3, 4]], [[5], [6, 7, 8]]], 1, shard_size=2)
    assert [shard.texts for shard in index.shards] == [2, 1]
    assert writer.index() == index


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / rows_file(1)).unlink(),
        lambda folder: (folder / rows_file(1)).write_bytes((folder / rows_file(1)).read_bytes()[:-1]),
        lambda folder: (folder / ROWS_INDEX).unlink(),
        lambda folder: (folder / ROWS_INDEX).write_text("{"),
    ],
    ids=["missing rows", "short rows", "missing index", "damaged index"],
)
def test_rows_that_are_not_whole_are_written_anew(tmp_path: Path, damage):
    batches = [[[1, 2], [3, 4], [5, 6]]]
    index = write(tmp_path, batches, 1, shard_size=2)
    damage(tmp_path)
    assert StoreWriter(folder_at(tmp_path)).index() is None
    assert write(tmp_path, batches, 1, shard_size=2) == index
    assert StoreWriter(folder_at(tmp_path)).index() == index


def test_rows_that_were_changed_are_refused(tmp_path: Path):
    index = write(tmp_path, [[[1, 2], [3, 4]]], 1)
    content = bytearray((tmp_path / rows_file(0)).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / rows_file(0)).write_bytes(content)
    with pytest.raises(CorruptShardError, match=r"rows/00000.parquet is damaged. Delete rows.json"):
        shards_of(tmp_path, index)


@pytest.mark.parametrize(
    ("positions", "options", "message"),
    [
        ([4, 9], {}, r"'texts' reaches position 9, which takes 10 tokens: the longest of 4 texts has 3\."),
        (["last"], {"longest": 1}, r"'texts' can be used: 3 of 4 are longer than 1 tokens, .* a larger --max-tokens"),
        (["all"], {"tokens": TokensConfig(special=False)}, r"no token to take: the options --tokens .* in its 4 texts"),
    ],
)  # fmt: skip
def test_nothing_kept_says_why(tmp_path: Path, positions: list, options: dict, message: str):
    batches = [[[0, 0], [0, 0, 0]], [[], [0, 0]]]
    with pytest.raises(NoTextLongEnoughError, match=message):
        write(tmp_path, batches, *positions, special=frozenset({0}), **options)
    assert StoreWriter(folder_at(tmp_path)).index() is None


def test_texts_without_any_token_are_too_short(tmp_path: Path):
    with pytest.raises(NoTextLongEnoughError, match=r"position 0, which takes 1 tokens: the longest of 2 texts has 0"):
        write(tmp_path, [[[]], [[]]], "all")
