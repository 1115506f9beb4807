"""What the readers of other packages' files share: reading and checking them, and building an autoencoder from them.

Dimensions are named by a letter: D d_in, F d_latent.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.checkpoint import build_autoencoder, load_weights
from bae_ray.autoencoders.config import ArchitectureConfig
from bae_ray.errors import CheckpointError, InvalidInputError
from bae_ray.values import is_finite


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. Raises `CheckpointError` where there is none."""
    content = _read(file, "JSON", lambda path: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, expected a JSON object. Restore the file.")
    return content


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors in `file`. Raises `CheckpointError` where it is missing or damaged."""
    return _read(file, "safetensors", load_file)


def check_tensors(
    tensors: Mapping[str, Any], layout: Mapping[str, str], source: object, sizes: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Check that `tensors` are those of `layout`, finite, and of sizes that go together; the size of each dimension.

    `layout` gives the dimensions of each tensor, for example {"W_enc": "D F"}; `sizes` those known beforehand.
    Raises `CheckpointError` that names the tensor and what was expected of it.
    """
    missing, unknown = sorted(layout.keys() - tensors.keys()), sorted(map(str, tensors.keys() - layout.keys()))
    if missing or unknown:
        raise CheckpointError(
            f"the tensors in {source} are not the expected ones: missing: {', '.join(missing) or 'none'}; "
            f"unknown: {', '.join(unknown) or 'none'}; expected: {', '.join(layout)}. Give the file that "
            "belongs to this format and architecture."
        )
    known = dict(sizes or {})
    for name, dimensions in layout.items():
        tensor, letters = tensors[name], dimensions.split()
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError(f"{name} in {source} is of {found}, expected a floating-point tensor.")
        expected = [known.get(letter, letter) for letter in letters]
        fits = tensor.ndim == len(letters) and all(
            size > 0 and known.setdefault(letter, size) == size
            for letter, size in zip(letters, tensor.shape, strict=True)
        )
        if not fits:
            raise CheckpointError(
                f"{name} in {source} has shape {list(tensor.shape)}, expected [{', '.join(map(str, expected))}]. "
                "Give weights that were saved together."
            )
        if not is_finite(tensor.float()):
            raise CheckpointError(
                f"{name} in {source} has values that are not finite, or beyond float32's range: these weights are "
                "damaged."
            )
    return known


def assemble(
    config: type[ArchitectureConfig], sizes: Mapping[str, int], fields: dict[str, Any], weights: dict[str, Tensor],
    source: object,
) -> Autoencoder:  # fmt: skip
    """The autoencoder of a config class, sizes D and F and further config fields, with the given weights in float32.

    It works in the activations' own units: mean 0, scale 1. In evaluation mode. Raises `InvalidInputError` for a value
    that the config refuses, `CheckpointError` where the weights do not fit it.
    """
    d_in, d_latent = sizes["D"], sizes["F"]
    widths = {"d_latent": d_latent} if d_latent % d_in else {"expansion": d_latent // d_in}
    try:
        autoencoder = build_autoencoder(config(d_in=d_in, **widths, **fields))
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInputError(
            f"{'.'.join(map(str, first['loc']))} of {source} is {first['input']!r}: {first['msg']}."
        ) from error
    cast = {name: tensor.to(torch.float32) for name, tensor in weights.items()}
    load_weights(autoencoder, autoencoder.state_dict() | cast, str(source))
    return autoencoder.eval()


def _read(file: Path, what: str, read: Callable[[Path], Any]) -> Any:
    try:
        return read(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing. Give a path in the format that you name.") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read as {what}: {error}. Restore the file.") from error
