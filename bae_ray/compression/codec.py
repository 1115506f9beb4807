"""Compressing codes of 0 and 1, and decompressing them.

Shapes: N samples, F d_latent.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.compression.container import ContainerReader, ContainerWriter
from bae_ray.compression.header import BLOCK_ROWS, Header, Scheme, TableChoice
from bae_ray.compression.indices import LOWEST, kept_latents
from bae_ray.compression.tables import Model, table_for_scheme, table_of
from bae_ray.errors import ContainerTooLargeError, InvalidInputError
from bae_ray.files import at_hand
from bae_ray.locations import local_path, shown
from bae_ray.values import check_type

MAX_BYTES = 4 << 30
"""Default limit of the size of decoded codes, in bytes."""
BYTES_PER_STEP = 256
"""Bytes that a step down a tree counts in such a limit. A step takes some 50 microseconds, however small the block:
without this, a 200 kB container with a chain of thousands of latents and one-row blocks could take hours."""

Source = bytes | bytearray | memoryview | str | Path | BinaryIO
"""A container: its bytes, the path of its file, or the file itself, open for reading."""


class CodeOptions(TypedDict, total=False):
    """Options of writing codes; see `compress`. The defaults are those of `CodeWriter`."""

    block_rows: int
    threshold: float | None
    model_hash: str
    table: TableChoice


class CodeWriter:
    """Writes codes into a container as they come, with only one block in memory.

    A context manager: the container is complete after an exit without an error.
    """

    def __init__(
        self,
        file: BinaryIO,
        prior: Model,
        scheme: Scheme = "entropy",
        *,
        block_rows: int = BLOCK_ROWS,
        threshold: float | None = None,
        model_hash: str = "",
        table: TableChoice = "embedded",
    ) -> None:
        """For parameters and errors see `compress`; `file` must be able to seek."""
        if threshold is not None and scheme != "indices":
            raise InvalidInputError(f"threshold is {threshold}; scheme {scheme} keeps all bits. Use scheme indices.")
        self._table = table_for_scheme(prior, scheme)
        d_latent = len(self._table.typical)
        header = Header(0, d_latent, scheme, block_rows, model_hash, self._table.hash, table)
        header.check()
        self._typical = torch.from_numpy(self._table.typical)
        self._kept = None
        if scheme == "indices" and isinstance(prior, Tensor):
            self._kept = kept_latents(prior, LOWEST if threshold is None else threshold)
        self._writer = ContainerWriter(file, header, self._table)
        self._size, self._waiting, self._rows = block_rows, [], 0

    def write(self, code: Tensor) -> None:
        """Add codes [n, F]. Raises `InvalidInputError` for invalid codes or another width."""
        if code.ndim != 2 or code.shape[1] != len(self._typical):
            raise InvalidInputError(
                f"code has shape {tuple(code.shape)}; the prior is of {len(self._typical)} latents: expected "
                f"[n, {len(self._typical)}]. Give codes and prior of one autoencoder."
            )
        while len(code):
            taken, code = code[: self._size - self._rows], code[self._size - self._rows :]
            self._waiting.append(self._flips(taken) + self._rows * len(self._typical))
            self._rows += len(taken)
            if self._rows == self._size:
                self._flush()

    def finish(self) -> Header:
        """Write the rest; return the header."""
        if self._rows:
            self._flush()
        return self._writer.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()

    def _flush(self) -> None:
        self._writer.write_block(np.concatenate(self._waiting), self._rows)
        self._waiting, self._rows = [], 0

    def _flips(self, code: Tensor) -> np.ndarray:
        """Kept bits that differ from the typical code, each as row * F + latent."""
        bits = as_bits(code)
        if bits.device.type != "cpu":  # only the flips leave the device
            flips = (bits != self._typical.to(bits.device)).flatten().nonzero().squeeze(1).cpu().numpy()
        else:
            flips = _nonzero(bits.numpy() ^ self._table.typical)
        return flips if self._kept is None else flips[self._kept[flips % len(self._kept)]]


def as_bits(code: Tensor) -> Tensor:
    """A code of any dtype as uint8, on its device. Raises `InvalidInputError` where it is not of 0 and 1 only."""
    check_type(code, "code", booleans=True)
    code = code.detach()
    if code.dtype == torch.bool:
        return code.contiguous().view(torch.uint8)
    bits = code.to(torch.uint8)
    if bits.numel() and (_largest(bits) > 1 or (bits.dtype != code.dtype and not bool((bits == code).all()))):
        bad = code[(code != 0) & (code != 1)][0]
        raise InvalidInputError(
            f"code holds {bad.item()}; expected 0 and 1 only. Give the latents of a binary autoencoder; those of "
            "another one cannot be compressed."
        )
    return bits.contiguous()


def _nonzero(bits: np.ndarray) -> np.ndarray:
    """Places of the bytes of a matrix that are not 0. Few are, so that eight at a time are passed over."""
    flat = bits.reshape(-1)
    whole = len(flat) // 8 * 8
    words = np.flatnonzero(flat[:whole].view(np.uint64))
    row, column = np.nonzero(flat[:whole].reshape(-1, 8)[words])
    return np.concatenate([words[row] * 8 + column, whole + np.flatnonzero(flat[whole:])])


def _largest(bits: Tensor) -> int:
    return int(bits.numpy().max() if bits.device.type == "cpu" else bits.max())  # numpy's is several times faster here


def compress(code: Tensor, prior: Model, scheme: Scheme = "entropy", **options: Unpack[CodeOptions]) -> bytes:
    """Codes [N, F] of 0 and 1, of any dtype and device, as a container; `prior` [F] are the firing rates.

    `entropy` codes every bit by its firing rate. `indices` is the paper's scheme (Appendix A.5): the indices of the
    bits whose burstiness, log2 |code - prior|, is above `threshold`, in [log2 0.5, 0] and by default log2 0.5; that is
    lossless, except for latents whose prior is exactly 0.5, which come back as 0. `tree` codes every bit given its
    parent's bit in a tree; pass the tree as `prior` (`fit_tree`). Blocks of `block_rows` rows (by default 1024) can be
    read without the others. `model_hash` is kept in the header. `table`: `embedded`, the default: the container can be
    read by itself. `reference`: it holds only a digest of the quantised prior, and reading it needs the same prior.

    Raises `InvalidInputError` for a code that is not of 0 and 1, or a prior that does not fit it.
    """
    file = io.BytesIO()
    with CodeWriter(file, prior, scheme, **options) as writer:
        writer.write(code)
    return file.getvalue()


def fit_tree(codes: Tensor | Iterable[Tensor]) -> ChowLiuTree:
    """The Chow-Liu tree of codes of 0 and 1, [N, F] or batches of them, for scheme `tree`.

    Raises `InvalidInputError` for an invalid code, no code, or more than 32,768 latents that vary.
    """
    return ChowLiuTree.fit([as_bits(part) for part in ([codes] if isinstance(codes, Tensor) else codes)])


def decompress(data: Source, *, prior: Model | None = None, max_bytes: int = MAX_BYTES) -> Tensor:
    """The codes of a container, [N, F] in uint8. `prior`: the rates [F] or the tree, where it refers to these.

    Raises `CorruptContainerError` for an invalid or damaged container, `ForeignModelError` for a missing or wrong
    prior, and `ContainerTooLargeError`, before any memory is taken, for codes of more than `max_bytes`.
    """
    with open_container(data, prior) as reader:
        return _read(reader, 0, len(reader), max_bytes)


def read_rows(data: Source, start: int, stop: int, *, prior: Model | None = None, max_bytes: int = MAX_BYTES) -> Tensor:
    """The codes of rows `start` to `stop` - 1 of a container, [stop - start, F]; only their blocks are decoded.

    Raises what `decompress` does, and `InvalidInputError` for missing rows.
    """
    with open_container(data, prior) as reader:
        check_rows(reader, start, stop)
        return _read(reader, start, stop, max_bytes)


def read_header(data: Source) -> Header:
    """The header of a container. It is checked with the tables; blocks are not read. See `decompress`."""
    with open_container(data) as reader:
        return reader.header


@contextmanager
def open_container(data: Source, prior: Model | None = None) -> Iterator[ContainerReader]:
    """The reader of a container; `prior` as in `decompress`. Raises `InvalidInputError` where there is no file."""
    table = None if prior is None else table_of(prior)
    if isinstance(data, str | Path):
        try:
            file = open(at_hand(local_path(data)), "rb")  # noqa: SIM115
        except OSError as error:
            raise InvalidInputError(
                f"{shown(local_path(data))} cannot be read: {error.strerror}. Give the file of a container."
            ) from error
        with file:
            yield ContainerReader(file, table)
    elif isinstance(data, bytes | bytearray | memoryview):
        yield ContainerReader(io.BytesIO(data), table)
    else:
        yield ContainerReader(data, table)


def check_rows(reader: ContainerReader, start: int, stop: int) -> None:
    """Raise `InvalidInputError` where a container has no such rows."""
    if not 0 <= start <= stop <= len(reader):
        raise InvalidInputError(
            f"rows are {start} to {stop}; the container has {len(reader)}: expected 0 <= start <= stop."
        )


def check_size(reader: ContainerReader, rows: int, bytes_per_row: int, max_bytes: int) -> None:
    """Raise `ContainerTooLargeError` if this many rows, or one block of the container, take more than `max_bytes`.

    Or if decoding takes more steps down a tree than `max_bytes` allows.
    """
    header = reader.header
    needed = max(rows * bytes_per_row, min(header.block_rows, header.rows) * header.d_latent)
    if needed > max_bytes:
        raise ContainerTooLargeError(
            f"{rows} rows of {header.d_latent} latents, in blocks of {header.block_rows}, take {needed} bytes; the "
            f"limit is {max_bytes}. Read fewer rows at a time, or raise max_bytes."
        )
    if header.scheme != "tree":
        return
    needed = BYTES_PER_STEP * -(-rows // header.block_rows) * reader.steps
    if needed > max_bytes:
        raise ContainerTooLargeError(
            f"{rows} rows in blocks of {header.block_rows}, and {reader.steps} steps down the tree for each, take "
            f"as long as {needed} bytes; the limit is {max_bytes}. Read fewer rows at a time, raise max_bytes, or "
            "compress in larger blocks."
        )


def _read(reader: ContainerReader, start: int, stop: int, max_bytes: int) -> Tensor:
    check_size(reader, stop - start, reader.header.d_latent, max_bytes)
    code = np.empty((stop - start, reader.header.d_latent), dtype=np.uint8)
    reader.codes_into(code, start)
    return torch.from_numpy(code)
