"""Bytes of containers and of saved autoencoders: what was written once is read for ever."""

from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import safe_open
from torch import Tensor

from bae_ray.autoencoders import BAEConfig
from bae_ray.autoencoders.chow_liu import ChowLiuTree
from bae_ray.compression import compress, compress_activations, decompress_activations, model_hash
from tests.recorded import made
from tests.recorded.places import ARCHITECTURES

SCHEMES, TABLES = ("entropy", "indices"), ("embedded", "reference")


def containers(_folder: Path) -> dict[str, Any]:
    """Containers of exact codes, and of activations through an exact autoencoder, as hex; both formats and schemes."""
    code = (made.numbers(50, made.F, seed=1) > 0.5).to(torch.uint8)
    rates = made.numbers(made.F, seed=2).abs()
    encoder = made.autoencoder(BAEConfig(d_in=made.D, d_latent=made.F))
    x = made.numbers(40, made.D, seed=3) * 4
    found: dict[str, Any] = {"model_hash": model_hash(encoder)}
    for scheme in SCHEMES:
        for table in TABLES:
            named = f"{scheme} {table}"
            found[f"codes {named}"] = compress(
                code, rates, scheme, block_rows=16, model_hash="abc", table=table  # type: ignore[arg-type]
            ).hex()  # fmt: skip
            data = compress_activations(encoder, x, scheme, table=table)  # type: ignore[arg-type]
            found[f"activations {named}"] = data.hex()
            found[f"reconstruction {named}"] = decompress_activations(encoder, data)[:4].tolist()
    tree = chain(code)
    for table in TABLES:
        for rows in (16, 4096):  # blocks that are coded bit by bit, and by their flips
            data = compress(code.repeat(rows // 16, 1), tree, "tree", block_rows=rows, model_hash="abc", table=table)  # type: ignore[arg-type]
            found[f"codes tree {table} {rows}"] = data.hex() if rows == 16 else xxhash.xxh3_128_hexdigest(data)
    found["codes with a threshold"] = compress(code, rates, "indices", threshold=-1.0).hex()
    found["no rows"] = compress(code[:0], rates).hex()
    for bits in (2, 4):
        more = made.autoencoder(BAEConfig(d_in=made.D, d_latent=made.F, bits_per_feature=bits))
        found[f"{bits} bits per feature"] = compress_activations(more, x).hex()
    return found


def chain(code: Tensor) -> ChowLiuTree:
    """A tree in which each latent hangs on the one before, fitted to codes [N, F] in whole numbers."""
    fired = code.bool()
    parent = torch.arange(code.shape[1]) - 1
    with_parent = (fired & fired[:, parent.clamp_min(0)]).sum(0)
    with_parent[0] = 0
    return ChowLiuTree(parent, torch.stack([fired.sum(0) - with_parent, with_parent], 1), len(code))


def autoencoders(folder: Path) -> dict[str, Any]:
    """Files of a saved autoencoder of each architecture; its weights are exact, and so is their file."""
    found: dict[str, Any] = {}
    for name, config in ARCHITECTURES.items():
        saved = made.autoencoder(config(d_in=made.D, d_latent=made.F))
        saved.save_pretrained(folder / name)
        weights = folder / name / "model.safetensors"
        with safe_open(weights, "pt") as file:
            tensors = {key: list(file.get_slice(key).get_shape()) for key in sorted(file.keys())}
        found[name] = {
            "files": sorted(file.name for file in (folder / name).iterdir()),
            "config": (folder / name / "config.json").read_text(encoding="utf-8"),
            "tensors": tensors,
            "checksum": xxhash.xxh3_128_hexdigest(weights.read_bytes()),
            "model_hash": model_hash(saved),
        }
    return found
