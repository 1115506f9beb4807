"""The shards of a store in order, each as soon as its rows are written; and the disk space that they need."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from bae_ray.activations.layout import RowsIndex, ShardRows
from bae_ray.activations.writer import StoreWriter
from bae_ray.errors import NotEnoughDiskError
from bae_ray.progress import console

Cut = Generator[tuple[int, ShardRows], None, RowsIndex]
"""Gives shards, and returns the index of all."""


class ShardStream:
    """The shards of a store: an iterator over their numbers and rows, which may be run once, in any thread."""

    def __init__(self, writer: StoreWriter, cut: Callable[[], Cut], bytes_per_vector: int) -> None:
        """`cut` writes the rows if some are missing; `bytes_per_vector` is the size of one vector, over all cells."""
        self.index = writer.index()
        """Of all shards, as soon as it is known."""
        self.shards: list[ShardRows] = []
        """Those that are known, in order."""
        self._writer, self._bytes_per_vector = writer, bytes_per_vector
        self._cut = self._found(self.index) if self.index is not None else cut()

    def __iter__(self) -> Iterator[tuple[int, ShardRows]]:
        """Raises `NotEnoughDiskError` at the end, once all rows are written: they stay for the next try."""
        with closing(self._cut):  # which reads ahead of what is asked for
            index = yield from self._fitting()
        self.index = index
        _tell(index)
        check_disk(self._writer, f"{index.n}", index.n * self._bytes_per_vector)

    def _fitting(self) -> Cut:
        """The shards as far as there is room for their vectors; all are cut."""
        free, there = self._writer.folder.free_bytes(), self._writer.bytes_written()
        room, vectors = None if free is None else free + there, 0
        while True:
            try:
                shard, rows = next(self._cut)
            except StopIteration as over:
                return over.value
            self.shards.append(rows)
            vectors += rows.n
            if room is None or vectors * self._bytes_per_vector <= room:
                yield shard, rows

    @staticmethod
    def _found(index: RowsIndex) -> Cut:
        yield from enumerate(index.shards)
        return index


def _tell(index: RowsIndex) -> None:
    if index.windowed is not None:
        console.print(f"Plan: windows of {index.windowed}")
    empty = f" ({index.texts_empty} of them null, empty or blank)" if index.texts_empty else ""
    console.print(
        f"Plan: {index.texts} texts with {index.tokens} tokens; {index.texts_too_short} of {index.texts_read} were too "
        f"short{empty} and {index.texts_too_long} too long, and left out."
    )


def check_disk(writer: StoreWriter, vectors: str, needed: int) -> None:
    """Print the store's size; raise `NotEnoughDiskError` if the rest does not fit."""
    free, there = writer.folder.free_bytes(), writer.bytes_written()
    known = f", {free / 1e9:.1f} GB free" if free is not None else ""
    console.print(
        f"Plan: {vectors} vectors for each cell, {needed / 1e9:.2f} GB in {writer.folder} ({there / 1e9:.2f} GB of it "
        f"there already{known})."
    )
    if free is not None and needed - there > free:
        raise NotEnoughDiskError(
            f"the store needs {(needed - there) / 1e9:.2f} GB more, but {writer.folder} has {free / 1e9:.2f} GB free. "
            "Make room and run the same command again, or use fewer texts, layers or positions, or a smaller dtype, in "
            "another folder."
        )
