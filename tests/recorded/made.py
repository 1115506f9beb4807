"""What the recorded observations are of: data and weights whose every number is exact.

Numbers are multiples of 1/8 made of a hash, so that sums and products of them are the same on every machine, whatever
its kernels, and in every version of every library.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors.torch import save
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bae_ray.autoencoders import Autoencoder, build_autoencoder

D, F = 8, 20
WORDS = [f"w{number}" for number in range(31)]


def numbers(*shape: int, seed: int) -> Tensor:
    """Multiples of 1/8 between -1 and 1."""
    drawn = hashlib.shake_256(f"{seed}".encode()).digest(int(np.prod(shape)))
    eighths = np.frombuffer(drawn, dtype=np.uint8).astype(np.float32) % 17 - 8
    return torch.from_numpy(eighths / 8).reshape(shape)


def autoencoder(config: Any, prior: bool = True) -> Autoencoder:
    """An autoencoder with exact weights, and firing rates if it is to have some."""
    made = build_autoencoder(config)
    with torch.no_grad():
        for place, (name, tensor) in enumerate([*made.named_parameters(), *made.named_buffers()]):
            tensor.copy_(numbers(*tensor.shape, seed=place).reshape(tensor.shape))
            if name in ("latent_std", "log_threshold"):
                tensor.fill_(1)
        made.scale.fill_(2)
        made.prior.copy_(numbers(made.d_latent, seed=99).abs() if prior else torch.zeros(made.d_latent))
    return made.requires_grad_(False).eval()


def language_model(folder: Path) -> Path:
    """A Llama of two blocks and width 8 with a tokenizer of words."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    config = LlamaConfig(vocab_size=len(vocabulary), hidden_size=D, intermediate_size=16, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64)  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for place, (name, weight) in enumerate(model.named_parameters()):
            weight.copy_(torch.ones_like(weight) if "norm" in name else numbers(*weight.shape, seed=place))
    model.save_pretrained(folder)
    return folder


def corpus(file: Path) -> Path:
    """40 labelled texts of 3 to 9 words."""
    lines = []
    for number in range(40):
        drawn = hashlib.shake_256(f"text {number}".encode()).digest(10)
        words = [WORDS[byte % len(WORDS)] for byte in drawn[: 3 + drawn[9] % 7]]
        lines.append(json.dumps({"text": " ".join(words), "label": ("w0", "w1")[drawn[0] % 2]}) + "\n")
    file.write_text("".join(lines), encoding="utf-8")
    return file


def store(folder: Path, layers: Any, positions: Any, sites: Any = ("residual",), d: int = D, n: int = 64) -> Path:
    """A finished store as docs/formats.md has it, written without the library."""
    files: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for site in sites:
            for position in positions:
                at = f"{position:05d}" if isinstance(position, int) else position
                name = f"cells/{site}/layer-{layer:02d}/position-{at}/00000.safetensors"
                content = save({"activations": numbers(n, d, seed=len(files)).mul(1 + layer)})
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
                files[name] = {"size": len(content), "checksum": xxhash.xxh3_128_hexdigest(content)}
    return _finish(folder, layers, positions, sites, d, n, files)


def manifest_only(folder: Path, layers: Any, positions: Any, sites: Any = ("residual",), d: int = D) -> Path:
    """The same without the activations: enough for planning a grid of many cells."""
    files = {}
    for layer in layers:
        for site in sites:
            for position in positions:
                at = f"{position:05d}" if isinstance(position, int) else position
                name = f"cells/{site}/layer-{layer:02d}/position-{at}/00000.safetensors"
                files[name] = {"size": 1, "checksum": xxhash.xxh3_128_hexdigest(name.encode())}
    return _finish(folder, layers, positions, sites, d, 64, files)


def _finish(folder: Path, layers: Any, positions: Any, sites: Any, d: int, n: int, files: Any) -> Path:
    request = {
        "format_version": 2, "model": {"name": "exact"}, "tokenizer": {}, "input": {"kind": "texts"},
        "layers": list(layers), "sites": list(sites), "positions": list(positions), "dtype": "float32",
        "batch_size": n, "batch_tokens": n, "shard_size": n, "shard_mb": 1,
    }  # fmt: skip
    manifest = {
        "request": request, "d": d, "n": n, "texts": n, "tokens": n, "texts_read": n, "texts_too_short": 0,
        "texts_too_long": 0, "shards": [{"shard": 0, "texts": n, "n": n, "files": files}],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "request.json").write_text(json.dumps(request))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
