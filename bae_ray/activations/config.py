"""What to extract, and how."""

from typing import Literal

from pydantic import Field

from bae_ray.config import Config

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_CORPUS = "agnews"

Precision = Literal["float32", "bfloat16", "float16"]


class CorpusConfig(Config):
    """Which texts."""

    corpus: str = DEFAULT_CORPUS
    """A bundled corpus (agnews, sst2, mr), local .txt (a text per line), .jsonl or .parquet files, a folder of such
    files, a glob, or the name of a data set on the Hugging Face hub."""
    text_column: str = "text"
    """The column that holds the text."""
    split: str = "train"
    """Split of a hub data set."""
    subset: str | None = None
    """Subset (configuration) of a hub data set."""
    corpus_revision: str | None = None
    """Revision of a hub data set."""
    max_texts: int | None = Field(default=2048, ge=2)
    """Use the first this many texts that are long enough. None: all."""


class ExtractConfig(CorpusConfig):
    """One pass of a language model over a corpus, for every requested layer x position."""

    model: str = DEFAULT_MODEL
    """The bundled smollm2-135m, a local folder, or a model id on the Hugging Face hub."""
    revision: str | None = None
    """Revision of a hub model."""
    layers: tuple[int, ...] | None = None
    """Indices into the model's hidden_states: 0 is the embeddings, the last one is after the final norm. Left out:
    all."""
    positions: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Token indices, counted from 0. A text too short for the last one is left out, and counted."""
    dtype: Precision = "float32"
    """Precision of the forward pass and of the stored activations."""
    batch_size: int = Field(default=32, ge=1)
    """Texts per forward pass."""
    shard_size: int = Field(default=512, ge=1)
    """Texts per shard: the unit of work that is retried, resumed and written at once."""
    workers: int | None = Field(default=None, ge=1)
    """Copies of the model that run in parallel. Left out: as many as fit on the cluster as it is now; say how many
    where the cluster grows on demand."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs, and so threads, of each worker."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """GPU share of each worker, such as 0.5; 0: it runs on the CPU. Left out: 1 where the cluster has GPUs now, else
    0; say it where the cluster grows on demand."""
