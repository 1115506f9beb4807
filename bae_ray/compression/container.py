"""Reading and writing containers of codes, block by block, in memory or in files larger than memory.

Shapes: N rows, F d_latent, R rows of a block, M flips.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import xxhash

from bae_ray.compression import compact
from bae_ray.compression.entropy import EntropyCoder, Positions, RatedCoder
from bae_ray.compression.header import HEADER_SIZE, Header, parse_header, write_header
from bae_ray.compression.indices import IndexCoder
from bae_ray.compression.prior import PriorTable
from bae_ray.compression.tables import Table, check_table, kind_of_table
from bae_ray.compression.tree_coder import TreeCoder
from bae_ray.compression.tree_table import TreeTable
from bae_ray.errors import CorruptContainerError, ForeignModelError

Codes = np.ndarray[Any, np.dtype[np.uint8]]


Coder = EntropyCoder | RatedCoder | IndexCoder | TreeCoder


def coder_for(header: Header, table: Table) -> Coder:
    """The coder of the blocks of a container."""
    if isinstance(table, TreeTable):
        return TreeCoder(table)
    if header.scheme == "indices":
        return IndexCoder(len(table.entries))
    return EntropyCoder(table) if header.table == "embedded" else RatedCoder(table)


class ContainerWriter:
    """Writes a container into a file that is open for writing and can seek: blocks one by one, the header last.

    With a header whose table is `reference` of version 2, else of version 1.
    """

    def __init__(self, file: BinaryIO, header: Header, table: Table) -> None:
        """`header` without its number of rows, which is counted."""
        self._file, self._header, self._table = file, header._replace(rows=0), table
        self._coder = coder_for(header, table)
        self._offsets, self._checksums = [0], []
        file.write(bytes(HEADER_SIZE) if header.table == "embedded" else compact.MAGIC)

    def write_block(self, flips: Positions, rows: int) -> None:
        """Add a block of R rows, of which the bits [M] differ from the typical code, each as row * F + latent."""
        self._add(self._coder.encode(flips, rows), rows)

    def append(self, part: "ContainerReader") -> None:
        """Add the blocks of another container of the same codes, as they are, each checked."""
        for block in range(part.header.blocks):
            self._add(part.read(block), part.header.rows_of(block))

    def finish(self) -> Header:
        """Write the tables and the header; gives the header."""
        file, payload_size = self._file, self._offsets[-1]
        if self._header.table == "reference":
            file.write(compact.write_fields(self._header, np.diff(self._offsets).tolist(), self._checksums))
            return self._header
        header = write_header(self._header, payload_size)
        tables = _tables(self._offsets, self._checksums, self._table)
        file.write(tables + xxhash.xxh3_128_digest(header + tables))
        file.seek(0)
        file.write(header)
        return self._header

    def _add(self, content: bytes, rows: int) -> None:
        if self._header.rows % self._header.block_rows:
            raise ValueError("only the last block may have fewer rows")
        self._file.write(content)
        self._offsets.append(self._offsets[-1] + len(content))
        self._checksums.append(xxhash.xxh3_64_intdigest(content))
        self._header = self._header._replace(rows=self._header.rows + rows)


class ContainerReader:
    """Reads a container from a file that can seek. Blocks are checked as they are read, everything else at once."""

    def __init__(self, file: BinaryIO, table: Table | None = None) -> None:
        """`table` is the autoencoder's; it is needed to read codes from a container that refers to it.

        Raises `CorruptContainerError`, and `ForeignModelError` for another table than the container refers to. Takes
        memory only for what the file really holds.
        """
        self._file, self._table, self._coder = file, None, None
        size = file.seek(0, 2)
        file.seek(0)
        if file.read(len(compact.MAGIC)) == compact.MAGIC:
            self.header, sizes, checksums, self.digest = compact.read_fields(file, size)
            self._start, self._offsets = len(compact.MAGIC), np.cumsum([0, *sizes], dtype=np.int64)
            self._checksums = np.array(checksums, dtype=np.uint64)
            if table is not None:
                self.use_table(table)
        else:
            self._table = self._read_tables(size)

    def use_table(self, table: Table) -> None:
        """Use this table where the container refers to one. Raises `ForeignModelError` for a wrong one."""
        if self.header.table == "reference":
            check_table(self.header, table)
            self._table, self._coder = table, None

    @property
    def table(self) -> Table:
        """The table of rates, or the tree. Raises `ForeignModelError` where it is referred to and was not given."""
        if self._table is None:
            own = "tree" if self.header.scheme == "tree" else "prior"
            raise ForeignModelError(
                f"the container refers to {kind_of_table(self.header)} {self.header.prior_hash}, which is its "
                f"autoencoder's: give prior=autoencoder.{own}, or read it with decompress_activations."
            )
        return self._table

    @property
    def steps(self) -> int:
        """Steps that decoding a block takes however few rows it has: down a tree, one for each depth."""
        return int(self.table.depth.max()) + 1 if isinstance(self.table, TreeTable) else 1

    def _read_tables(self, size: int) -> Table:
        """Read all but the blocks of a container of version 1."""
        self._file.seek(0)
        beginning = self._file.read(HEADER_SIZE)
        self.header, layout = parse_header(beginning, size)
        self._start, start = HEADER_SIZE, layout.offsets[0]
        tables = self._bytes(start, layout.digest[0])
        self.digest = self._bytes(*layout.digest)
        if xxhash.xxh3_128_digest(beginning + tables) != self.digest:
            raise CorruptContainerError("the container's header or tables are damaged. Compress anew.")

        def part(place: tuple[int, int], dtype: str) -> np.ndarray[Any, Any]:
            return np.frombuffer(tables[place[0] - start : place[1] - start], dtype=dtype)

        self._offsets = part(layout.offsets, "<u8").astype(np.int64)
        self._checksums = part(layout.checksums, "<u8")
        table = (TreeTable if self.header.scheme == "tree" else PriorTable)(part(layout.prior, "u1"))
        steps = np.diff(self._offsets)
        payload_size = layout.payload[1] - HEADER_SIZE
        if self._offsets[0] != 0 or int(self._offsets[-1]) != payload_size or (steps < 0).any():
            raise CorruptContainerError("the container's block offsets are not ascending. Compress anew.")
        if table.hash != self.header.prior_hash:
            raise CorruptContainerError("the container's prior is not the one that its header names. Compress anew.")
        return table

    def __len__(self) -> int:
        return self.header.rows

    def read(self, block: int) -> bytes:
        """The bytes of a block. Raises `CorruptContainerError` where they are damaged."""
        first, last = self._offsets[block : block + 2].tolist()
        content = self._bytes(self._start + first, self._start + last)
        if xxhash.xxh3_64_intdigest(content) != int(self._checksums[block]):
            first_row = block * self.header.block_rows
            raise CorruptContainerError(
                f"block {block} (rows {first_row} to {first_row + self.header.rows_of(block) - 1}) is damaged. Other "
                "blocks can be read; compress anew for this one."
            )
        return content

    def code(self, block: int, out: Codes | None = None) -> Codes:
        """The codes [R, F] of a block, in `out` if it is given. Raises `CorruptContainerError`."""
        rows, typical = self.header.rows_of(block), self.table.typical
        if self._coder is None:  # not before: whoever reads the header alone takes no memory for it
            self._coder = coder_for(self.header, self.table)
        code = np.empty((rows, self.header.d_latent), dtype=np.uint8) if out is None else out
        code[:] = typical
        flat = code.reshape(-1)
        for flips in self._coder.decode(self.read(block), rows):
            flat[flips] ^= 1
        return code

    def codes(self, start: int, stop: int) -> Iterator[Codes]:
        """The codes of rows `start` to `stop` - 1, a block or less of them at a time; only their blocks are read."""
        size = self.header.block_rows
        for block in self._blocks(start, stop):
            yield self.code(block)[max(0, start - block * size) : stop - block * size]

    def codes_into(self, out: Codes, start: int) -> None:
        """Fill `out` [n, F] with the codes of rows `start` to `start` + n - 1."""
        size, stop = self.header.block_rows, start + len(out)
        for block in self._blocks(start, stop):
            first, rows = block * size, self.header.rows_of(block)
            if start <= first and first + rows <= stop:
                self.code(block, out[first - start : first - start + rows])
            else:
                here = slice(max(start, first), min(stop, first + rows))
                out[here.start - start : here.stop - start] = self.code(block)[here.start - first : here.stop - first]

    def _blocks(self, start: int, stop: int) -> range:
        """The blocks that hold rows `start` to `stop` - 1."""
        size = self.header.block_rows
        return range(start // size, -(-stop // size) if stop > start else start // size)

    def _bytes(self, start: int, stop: int) -> bytes:
        self._file.seek(start)
        content = self._file.read(stop - start)
        if len(content) != stop - start:
            raise CorruptContainerError(f"the container ends at byte {start + len(content)}, expected {stop}.")
        return content


def _tables(offsets: list[int], checksums: list[int], table: Table) -> bytes:
    return (
        np.array(offsets, dtype="<u8").tobytes() + np.array(checksums, dtype="<u8").tobytes() + table.entries.tobytes()
    )
