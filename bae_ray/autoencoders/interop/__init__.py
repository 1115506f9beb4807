"""Autoencoders of other packages: the paper's released code, SAELens and sparsify. docs/formats.md, "Interchange"."""

from pathlib import Path
from typing import get_args

from bae_ray.autoencoders.architectures import Format, Kind
from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.interop.release import load_release as load_release
from bae_ray.autoencoders.interop.release import read_release as read_release
from bae_ray.autoencoders.interop.saelens import import_saelens as import_saelens
from bae_ray.autoencoders.interop.saelens_export import InexactConversionWarning as InexactConversionWarning
from bae_ray.autoencoders.interop.saelens_export import export_saelens as export_saelens
from bae_ray.autoencoders.interop.sparsify import import_sparsify as import_sparsify
from bae_ray.errors import InvalidInputError


def import_autoencoder(
    path: str | Path,
    format: Format,  # noqa: A002 - what it is called on the command line too
    kind: Kind | None = None,
    k: int | None = None,
    threshold: float | None = None,
) -> Autoencoder:
    """The autoencoder in a folder of SAELens or sparsify, or in a file of the paper's released code.

    `kind`, `k` and `threshold` are for the release only: see `read_release`.

    Raises `InvalidInputError` for an unknown format and for a value that the format does not take, `CheckpointError`
    where the files cannot be read or cannot be represented here.
    """
    if format == "release":
        return read_release(path, kind, k, threshold)
    if format not in get_args(Format):
        raise InvalidInputError(f"format '{format}' is not known: give one of {', '.join(get_args(Format))}.")
    for name, value in {"kind": kind, "k": k, "threshold": threshold}.items():
        if value is not None:
            raise InvalidInputError(f"{name} is {value!r}, but only the format release takes it: leave it out.")
    return import_saelens(path) if format == "saelens" else import_sparsify(path)
