"""The tables of texts and prompts that an extraction reads, for tests."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from bae_ray.activations.config import ExtractConfig, InputConfig
from bae_ray.activations.layout import RowsIndex
from bae_ray.activations.model import find_model
from bae_ray.activations.shard_stream import Cut
from bae_ray.activations.sources import find_source

START, END = 61, 62


def with_tokens(tiny_model: Path, folder: Path, template: str, **special: str) -> Path:
    """The tiny model with a tokenizer that has these special tokens, and frames a text like the template."""
    model = Path(shutil.copytree(tiny_model, folder / "model"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    tokenizer.add_special_tokens({**special})
    named = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<unk>", *special.values())]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=named)
    tokenizer.save_pretrained(model)
    return model


def jsonl(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file = folder / "examples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def config(model: Path | str, corpus: Path | str, input_: InputConfig, **options: Any) -> ExtractConfig:
    return ExtractConfig(model=str(model), corpus=str(corpus), input=input_, **options)


def tables(config: ExtractConfig, read: int | None = None) -> pa.Table:
    return pa.concat_tables(find_source(config, find_model(config.model), read).tables(1))


def ids_of(text: str) -> list[int]:
    return [int(word[1:]) + 1 for word in text.split()]


TEXTS = [f"w{i} w{i + 1} w{i + 2}" for i in range(20, 32)]
NUMBERS = [i % 3 for i in range(12)]
WORDS = ("w9", "w7", "w8")
LABELLED = [{"text": text, "label": number} for text, number in zip(TEXTS, NUMBERS, strict=True)]


def index_of(cut: Cut) -> RowsIndex:
    """Cut all shards; the index of their rows."""
    while True:
        try:
            next(cut)
        except StopIteration as over:
            return over.value
