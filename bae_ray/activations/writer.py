"""Writing an activation store, shard by shard, from any number of processes at once."""

import io
import platform
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from bae_ray.activations import layout
from bae_ray.activations.layout import Cell, Manifest, Receipt, Request, RowsIndex, ShardRows
from bae_ray.errors import CorruptShardError, ForeignStoreError
from bae_ray.files import TEMPORARY_SUFFIX
from bae_ray.storage import FileRecord, Folder
from bae_ray.work.receipts import read_receipt


class StoreWriter:
    """Writes a store: the request first, then rows, then shards in any order, the manifest last.

    A shard counts as finished when its receipt is there, and that is written after all its files.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def claim(self, request: Request) -> bool:
        """Make the folder this request's store; return whether it is new.

        Raises `ForeignStoreError` if it holds something else.
        """
        if self.folder.exists(layout.REQUEST):
            try:
                found = Request.model_validate_json(self.folder.read(layout.REQUEST))
            except ValidationError as error:
                raise ForeignStoreError(
                    f"{self.folder}/{layout.REQUEST} is not the request of a store of format {layout.FORMAT_VERSION} "
                    f"({error.error_count()} fields do not fit). Choose another output folder."
                ) from error
            if found != request:
                raise ForeignStoreError(
                    f"{self.folder} holds the store of a different run: {'; '.join(_differences(found, request))}. "
                    "Stores are never mixed or overwritten: choose another output folder, or delete this one."
                )
            return False
        if any(not name.endswith(TEMPORARY_SUFFIX) for name in self.folder.files()):
            raise ForeignStoreError(
                f"{self.folder} is not empty and holds no activation store. Choose an empty or a new output folder."
            )
        self.folder.write_text(layout.REQUEST, request.to_json())
        return True

    def give_up(self) -> None:
        """Remove a store that was claimed but not used."""
        self.folder.remove()

    def write_rows(self, shard: int, rows: pa.Table, n: int, tokens: int) -> ShardRows:
        """Write the texts of a shard, of which each cell gets `n` vectors."""
        record = self.folder.write(layout.rows_file(shard), _parquet(rows))
        return ShardRows(texts=len(rows), n=n, tokens=tokens, file=record)

    def read_rows(self, shard: int, expected: FileRecord) -> pa.Table:
        """The texts of a shard. Raises `CorruptShardError` where the file is not what was written."""
        try:
            content = self.folder.read(layout.rows_file(shard))
        except FileNotFoundError as error:
            raise CorruptShardError(
                f"{self.folder}/{layout.rows_file(shard)} is missing on {platform.node()}. If it is there on another "
                "machine, give an --out on a file system that all machines see, or an object store; if not, run the "
                "same extraction again: the texts are read anew, and finished shards are kept."
            ) from error
        if FileRecord.of(content) != expected:
            raise CorruptShardError(
                f"{self.folder}/{layout.rows_file(shard)} is damaged. Delete {layout.ROWS_INDEX} and run the same "
                "extraction again: the texts are read anew, and finished shards are kept."
            )
        return pq.read_table(pa.BufferReader(content))

    def write_index(self, index: RowsIndex) -> None:
        """Write down that every rows file is there."""
        self.folder.write_text(layout.ROWS_INDEX, index.to_json())

    def index(self) -> RowsIndex | None:
        """The index of the rows, if all of them were written and are still there."""
        index = read_receipt(self.folder, layout.ROWS_INDEX, RowsIndex)
        if index is None:
            return None
        sizes = self.folder.sizes(layout.rows_file(shard) for shard in range(len(index.shards)))
        return index if sizes == [shard.file.size for shard in index.shards] else None

    def write_shard(
        self,
        shard: int,
        rows: ShardRows,
        vectors: Mapping[Cell, Tensor],
        predictions: pa.Table | None = None,
        made_with: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Write the [n, d] activations of every cell of a shard, the model's answers if there are any, and a receipt.

        `made_with`: what computed them, for the receipt. Where a write fails no receipt is left, and what is there of
        the shard is written over by the next try.
        """
        files = {layout.rows_file(shard): rows.file}
        for cell, matrix in vectors.items():
            files[cell.file(shard)] = self.folder.write(cell.file(shard), save({layout.TENSOR: matrix}))
        if predictions is not None:
            name = layout.predictions_file(shard)
            files[name] = self.folder.write(name, _parquet(predictions))
        receipt = Receipt(shard=shard, texts=rows.texts, n=rows.n, files=files, made_with=dict(made_with or {}))
        self.folder.write_text(layout.receipt_file(shard), receipt.to_json())
        return receipt

    def bytes_written(self) -> int:
        """Bytes of the activations that are there already."""
        return sum(self.folder.files("cells").values())

    def receipt(self, shard: int, rows: ShardRows | None = None) -> Receipt | None:
        """The receipt of a shard, if it is finished, of these rows, and its files are still there in full length."""
        receipt = read_receipt(self.folder, layout.receipt_file(shard), Receipt)
        if receipt is None or (rows is not None and receipt.files[layout.rows_file(shard)] != rows.file):
            return None
        sizes = self.folder.sizes(receipt.files)
        return receipt if sizes == [record.size for record in receipt.files.values()] else None

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the store readable; remove half-written files of killed workers."""
        self.folder.write_text(layout.MANIFEST, manifest.to_json())
        self.folder.remove_temporary()


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _differences(found: Request, wanted: Request) -> list[str]:
    ours, theirs = wanted.model_dump(mode="json"), found.model_dump(mode="json")
    return [f"{key} is {theirs[key]} there, {ours[key]} here" for key in ours if ours[key] != theirs[key]]
