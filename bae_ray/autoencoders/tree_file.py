"""The file of a tree over latents, beside the autoencoder that it belongs to (docs/formats.md)."""

from collections.abc import Sequence
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.errors import CheckpointError, InvalidInputError
from bae_ray.files import atomic_path, check_regular

TREE_FILE = "tree.safetensors"
FORMAT = "bae_ray.tree"
VERSION = "1"
BYTES_PER_LATENT, MOST_HEADER_BYTES = 20, 1 << 16
REMEDY = "Restore the file, or remove it: without it the autoencoder has no tree."


def tree_hash(tree: ChowLiuTree) -> str:
    """32 hex digits that identify a tree by its numbers."""
    digest = xxhash.xxh3_128(f"{tree.n} {len(tree.parent)}".encode())
    digest.update(tree.parent.numpy().astype("<i8").tobytes())
    digest.update(tree.fired.contiguous().numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def save_tree(tree: ChowLiuTree, file: str | Path, autoencoder: str = "") -> None:
    """Write a tree; `autoencoder` is the `model_hash` of the autoencoder whose codes it models."""
    metadata = {
        "format": FORMAT, "version": VERSION, "n": str(tree.n), "autoencoder": autoencoder, "digest": tree_hash(tree)
    }  # fmt: skip
    with atomic_path(Path(file)) as temporary:
        save_file({"parent": tree.parent.to(torch.int32), "fired": tree.fired.contiguous()}, temporary, metadata)


def check_tree_file(file: Path, d_latent: int) -> None:
    """Raise `InvalidInputError` unless it is a regular file, no larger than a tree's; `OSError` if there is none."""
    check_regular(file, BYTES_PER_LATENT * d_latent + MOST_HEADER_BYTES)


def load_tree(file: str | Path, autoencoder: Sequence[str] = (), d_latent: int | None = None) -> ChowLiuTree:
    """The tree in a file. Raises `CheckpointError` if it is missing, damaged, or belongs to another autoencoder.

    `autoencoder`: its `model_hashes`; if the file names one, it must be among these. `d_latent`: its width. What is not
    given is not checked.
    """
    path = Path(file)
    try:
        if d_latent is None:
            check_regular(path)
        else:
            check_tree_file(path, d_latent)
        with safe_open(path, "pt") as content:
            metadata = content.metadata() or {}
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
                raise CheckpointError(
                    f"{path} is no tree of a version that this bae_ray reads, which is {VERSION}. {REMEDY}"
                )
            tree = ChowLiuTree(content.get_tensor("parent").long(), content.get_tensor("fired"), int(metadata["n"]))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing. Give the file of a tree, as save_tree writes it.") from error
    except (OSError, SafetensorError, InvalidInputError, KeyError, ValueError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} cannot be read as a tree: {error}. {REMEDY}") from error
    if metadata.get("digest") != tree_hash(tree):
        raise CheckpointError(f"{path} is damaged: its numbers are not those that were written. {REMEDY}")
    named = metadata.get("autoencoder", "")
    if autoencoder and named and named not in autoencoder:
        raise CheckpointError(f"{path} is of the codes of the autoencoder {named}; this is {autoencoder[0]}. {REMEDY}")
    if d_latent is not None and d_latent != len(tree.parent):
        raise CheckpointError(f"{path} is of {len(tree.parent)} latents; the autoencoder has {d_latent}. {REMEDY}")
    return tree
