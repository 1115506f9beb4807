"""Compressing activations by a binary autoencoder and reconstructing them, with the autoencoder's error.

Shapes: N samples, D d_in, F d_latent.
"""

import io
from collections.abc import Iterable
from typing import BinaryIO, Unpack

import torch
from torch import Tensor

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.checkpoint import model_hash, model_hashes
from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.compression.choices import check_threshold, chosen_model
from bae_ray.compression.codec import (
    MAX_BYTES,
    CodeOptions,
    CodeWriter,
    Source,
    check_rows,
    check_size,
    open_container,
)
from bae_ray.compression.config import PriorChoice
from bae_ray.compression.container import ContainerReader
from bae_ray.compression.header import BLOCK_ROWS, Scheme, TableChoice
from bae_ray.compression.tables import Model, own_model, table_of, use_own
from bae_ray.errors import ForeignModelError, InvalidInputError
from bae_ray.values import check_finite, check_type


def check_compressible(autoencoder: Autoencoder) -> None:
    """Raise `InvalidInputError` for an autoencoder that is not binary."""
    if not autoencoder.architecture.is_binary:
        raise InvalidInputError(
            f"the autoencoder's architecture is {autoencoder.config.name}, whose latents are "
            "no codes of 0 and 1; expected bae. Train a binary autoencoder on these activations."
        )


@torch.no_grad()
def compress_activations(
    autoencoder: Autoencoder,
    x: Tensor | Rows,
    scheme: Scheme = "entropy",
    *,
    prior: Model | PriorChoice = "encoder",
    **options: Unpack[CodeOptions],
) -> bytes:
    """Activations [N, D] as a container of their codes, which names the autoencoder; for options see `compress`.

    `prior` are rates [F], for scheme `tree` a tree, or a choice of these; see `chosen_prior`. `table`: by default
    `reference` for the autoencoder's own rates or tree, which the reader has too; others are put into the container.
    Raises `InvalidInputError` for an autoencoder that is not binary, activations of another width, or a threshold of
    burstiness without a prior, and `NoPriorError` for scheme `tree` without a tree.
    """
    check_compressible(autoencoder)
    options.setdefault("table", "reference")
    if isinstance(prior, str):
        prior = chosen_model(autoencoder, x, prior, scheme, **options)
    file = io.BytesIO()
    write_activations(file, autoencoder, x.split(BLOCK_ROWS), scheme, prior=prior, **options)
    return file.getvalue()


@torch.no_grad()
def write_activations(
    file: BinaryIO,
    autoencoder: Autoencoder,
    batches: Iterable[Tensor],
    scheme: Scheme = "entropy",
    *,
    prior: Model | None = None,
    first_row: int = 0,
    **options: Unpack[CodeOptions],
) -> None:
    """Write batches [n, D] of activations into a file in the same way, in bounded memory.

    `prior` [F]: by default the autoencoder's own. `first_row`: number of the first row in messages. The options may
    include the `model_hash`, if known.
    """
    check_compressible(autoencoder)
    device = autoencoder.mean.device
    options["table"] = table_for(autoencoder, prior, options.get("table", "reference"))
    if prior is None:
        check_threshold(autoencoder, options.get("threshold"))
    if "model_hash" not in options:
        options["model_hash"] = model_hash(autoencoder)
    with CodeWriter(file, own_model(autoencoder, scheme) if prior is None else prior, scheme, **options) as writer:
        for batch in batches:
            check_type(batch, "x")
            check_finite(batch.to(autoencoder.mean.dtype), "x", first_row)
            writer.write(autoencoder.fires(batch.to(device)))
            first_row += len(batch)


def table_for(autoencoder: Autoencoder, prior: Model | None, table: TableChoice) -> TableChoice:
    """The place of the table of rates [F] or of a tree, `prior`: only the autoencoder's own can be referred to."""
    if prior is None:
        return table
    own = autoencoder.tree if isinstance(prior, ChowLiuTree) else autoencoder.prior
    return table if own is not None and table_of(prior).hash == table_of(own).hash else "embedded"


def decompress_activations(
    autoencoder: Autoencoder,
    data: Source,
    *,
    start: int = 0,
    stop: int | None = None,
    max_bytes: int = MAX_BYTES,
    known_hash: str | None = None,
) -> Tensor:
    """The reconstructions [N, D] of a container's activations, or of rows `start` to `stop` - 1, on the CPU.

    `known_hash` is the autoencoder's `model_hash`, if it is known already.

    Raises `ForeignModelError` where another autoencoder made the codes, and what `decompress` does.
    """
    with open_container(data) as reader:
        check_model(autoencoder, reader, known_hash)
        stop = len(reader) if stop is None else stop
        check_rows(reader, start, stop)
        check_size(reader, stop - start, autoencoder.d_in * autoencoder.mean.dtype.itemsize, max_bytes)
        x_hat = torch.empty(stop - start, autoencoder.d_in, dtype=autoencoder.mean.dtype)
        done = 0
        for part in reconstructions(autoencoder, reader, start, stop):
            x_hat[done : done + len(part)] = part
            done += len(part)
        return x_hat


@torch.no_grad()
def reconstructions(autoencoder: Autoencoder, reader: ContainerReader, start: int, stop: int) -> Iterable[Tensor]:
    """The same, at most a block at a time, on the autoencoder's device."""
    use_own(reader, autoencoder)
    for code in reader.codes(start, stop):
        for part in torch.from_numpy(code).split(BLOCK_ROWS):  # as floats four times the block, whose size others chose
            yield autoencoder.decode(part.to(autoencoder.mean.device))


def check_model(autoencoder: Autoencoder, reader: ContainerReader, known_hash: str | None = None) -> None:
    """Raise `ForeignModelError` if the codes are not this autoencoder's, whose hash may be known.

    A container that refers to a table of rates is then read with the autoencoder's table.
    """
    check_compressible(autoencoder)
    header, own = reader.header, known_hash or model_hash(autoencoder)
    if header.model_hash not in model_hashes(autoencoder, own):
        maker = f"the autoencoder {header.model_hash}" if header.model_hash else "an autoencoder that it does not name"
        raise ForeignModelError(
            f"the container's codes were made by {maker}; this one is {own}. Load the autoencoder that compressed them."
        )
    if header.d_latent != autoencoder.d_latent:
        raise ForeignModelError(
            f"the container's codes have {header.d_latent} latents; this autoencoder has {autoencoder.d_latent}."
        )
    use_own(reader, autoencoder)
