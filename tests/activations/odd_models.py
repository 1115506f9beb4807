"""Tiny random models of architectures that go their own way, saved beside the tokenizer of `tiny_model`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

VOCABULARY = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 24, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 8, "sliding_window": 8}
STATES: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3}
VISION: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip


def save_random(
    tokenizer: Path, folder: Path, model_type: str, kind: Any = AutoModelForCausalLM, **config: Any
) -> Path:
    """A random model of these sizes with the tokenizer of another folder; large weights, so attention matters."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in tokenizer.glob("tokenizer*"):
        shutil.copy(file, folder)
    torch.manual_seed(0)
    model = kind.from_config(AutoConfig.for_model(model_type, **config)).float().eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(8)
    model.save_pretrained(folder)
    return folder


def change(
    model: Path, folder: Path, weights: Callable[[dict[str, Any]], dict[str, Any]] = dict, **config: Any
) -> Path:
    """A copy of a saved model with other weights and other fields of its config."""
    shutil.copytree(model, folder)
    file = folder / "model.safetensors"
    save_file(weights(load_file(file)), file, metadata={"format": "pt"})
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | config))
    return folder


BASE_ONLY = AutoModel
WITH_IMAGES = AutoModelForImageTextToText
