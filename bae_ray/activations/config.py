"""What to extract, and how."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from bae_ray.config import Config


class TextsInput(Config):
    """Each text of the corpus."""

    kind: Literal["texts"] = "texts"
    """What the model reads: texts, windows, icl or random_tokens. The other input options depend on it:
    --help after it lists them."""


class WindowsInput(Config):
    """Windows of equal length, cut out of long texts or of all texts joined. No padding; no text is too short."""

    kind: Literal["windows"] = "windows"
    """What the model reads: texts, windows, icl or random_tokens. The other input options depend on it:
    --help after it lists them."""
    length: int = Field(default=1024, ge=1)
    """Tokens per window. A shorter rest at the end is dropped."""
    joined: bool = True
    """Join the texts of the corpus, with an end-of-text token between them, and cut the whole. Otherwise cut each text
    by itself."""
    start_token: bool = True
    """Begin each window with the start token, if the tokenizer puts one before a text."""


class ICLInput(Config):
    """In-context-learning prompts of a labelled corpus (the paper's Fig. 8): k demonstrations, then the query."""

    kind: Literal["icl"] = "icl"
    """What the model reads: texts, windows, icl or random_tokens. The other input options depend on it:
    --help after it lists them."""
    k: int = Field(default=4, ge=0)
    """Demonstrations per prompt."""
    demonstrations: Literal["sampled", "fixed"] = "sampled"
    """sampled: drawn anew for each query, never the query's own text. fixed: the corpus's first k for all queries, as
    in the released code, where the query may be one of them."""
    seed: int = Field(default=0, ge=0)
    """Seed of queries and demonstrations. Every k has the same queries, except those whose prompt is too long for the
    model. The demonstrations of a smaller k are the first ones of a larger k."""
    label_column: str = "label"
    """The column that holds the label: a number from 0, or a word."""
    label_words: tuple[str, ...] | None = None
    """The word for each label, in the order of the labels' numbers. None: the bundled corpus's own, or the labels
    themselves if they are words."""
    text_prefix: str | None = None
    """Text before each example's text. None: the bundled corpus's own, else "sentence: "."""
    label_prefix: str | None = None
    """Text before each label. None: the bundled corpus's own, else "label: "."""


class RandomTokensInput(Config):
    """Random sequences of two tokens. Sequences of r tokens have r bits (the paper's Appendix B)."""

    kind: Literal["random_tokens"] = "random_tokens"
    """What the model reads: texts, windows, icl or random_tokens. The other input options depend on it:
    --help after it lists them."""
    bits: int = Field(default=8, ge=1)
    """r: tokens per sequence. Each is one of the two, with equal chance."""
    tokens: tuple[int, int] = (0, 1)
    """The two tokens' ids."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sequences."""


InputConfig = Annotated[TextsInput | WindowsInput | ICLInput | RandomTokensInput, Field(discriminator="kind")]
"""What the model reads; the field `kind` says which."""

INPUTS = {one.model_fields["kind"].default: one for one in (TextsInput, WindowsInput, ICLInput, RandomTokensInput)}
"""Config class of each kind."""


DEFAULT_MODEL = "smollm2-135m"
DEFAULT_CORPUS = "agnews"

Precision = Literal["float32", "bfloat16", "float16"]
Site = Literal["residual", "mlp_in", "mlp_out"]
ExportFormat = Literal["npy", "parquet", "release"]
Position = int | Literal["last", "all"]
"""A token's index in the text; the text's last token; or all of its tokens, each with a vector of its own."""


def _named_once(values: tuple[Site, ...]) -> tuple[Site, ...]:
    if not values or len(set(values)) != len(values):
        raise ValueError("expected at least one, each named once")
    return values


class CorpusConfig(Config):
    """Which texts."""

    corpus: str = DEFAULT_CORPUS
    """A bundled corpus (agnews, sst2, mr); local files (.txt, .json, .jsonl, .csv, .tsv, .parquet, also compressed,
    such as .jsonl.zst); a folder of such files; a glob; or the name of a data set on the Hugging Face hub."""
    text_column: str = "text"
    """The column that holds the text, or a list of chat messages, which the model's chat template joins into one
    text."""
    txt: Literal["line", "document"] = "line"
    """What one text is in a .txt file: a line, or the whole file."""
    split: str = "train"
    """Split of a hub data set."""
    subset: str | None = None
    """Subset (configuration) of a hub data set."""
    corpus_revision: str | None = None
    """Revision of a hub data set."""
    max_texts: int | None = Field(default=2048, ge=2)
    """Largest number of texts, windows or sequences: the first that are long enough are used. For icl: number of
    prompts; those too long for the model are skipped and counted, not replaced. With position all, --tokens.max-vectors
    is a second limit. None: no limit."""


class TokensConfig(Config):
    """With position `all`: which tokens of a text are taken."""

    per_text: int | None = Field(default=None, ge=1)
    """Largest number of tokens per text, drawn at random. None: all."""
    max_vectors: int | None = Field(default=None, ge=2)
    """Largest number of vectors in all (the paper trains on 8,243,323). None: no limit."""
    special: bool = True
    """Also take special tokens, such as the start-of-text token."""
    first: bool = True
    """Also take each text's first token, where many models have an outlier (an attention sink)."""
    seed: int = Field(default=0, ge=0)
    """Seed for drawing tokens."""


class ExtractConfig(CorpusConfig):
    """One pass of a language model over a corpus, for every requested layer x site x position."""

    input: InputConfig = TextsInput()
    """What the model reads, made from the corpus."""
    model: str = DEFAULT_MODEL
    """The bundled smollm2-135m, a local folder, or a model id on the Hugging Face hub. It has to be causal (to read
    from left to right), which is checked first. Python code of its own is not run. An adapter has to be merged
    first."""
    revision: str | None = None
    """Revision of a hub model."""
    layers: tuple[int, ...] | None = None
    """Layer l is what block l receives, as a rule hidden_states[l]: 0 is the embeddings, the last one is after the
    final norm. None: all."""
    sites: Annotated[tuple[Site, ...], AfterValidator(_named_once)] = ("residual",)
    """Where in a layer. residual: the hidden state. mlp_in, mlp_out: input and output of the MLP in the block that
    reads that hidden state."""
    positions: tuple[Position, ...] = (1, 2, 4, 8, 16, 32)
    """Token indices, from 0. last: the last token of each text. all: every token. A text too short for the largest
    index is skipped and counted."""
    powers_of_two: int | None = Field(default=None, ge=1)
    """In place of positions: 1, 2, 4, 8, ... up to this number."""
    tokens: TokensConfig = TokensConfig()
    """With position all: which tokens."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest text, in tokens. With position all, longer texts are cut there; with position last, they are skipped.
    None: what the model takes."""
    dtype: Precision = "float32"
    """Precision of the forward pass and of the stored activations."""
    batch_size: int | None = Field(default=None, ge=1)
    """Texts per forward pass, at most. None: 32 on a CPU; on a GPU as many as --batch-tokens allows."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per forward pass, at most, padding included. A single longer text is a batch by itself. None: 16,384 on a
    CPU; on a GPU each worker measures beyond which size batches are hardly faster."""
    shard_size: int = Field(default=512, ge=1)
    """Texts per shard, at most. A shard is the unit of work that is retried, resumed and written at once."""
    shard_mb: int = Field(default=512, ge=1)
    """MB of activations per shard, at most. A worker holds two shards in memory."""
    compile: bool = False
    """Compile the model's blocks with torch.compile. Needs a C++ compiler; pays off in long runs."""
    workers: int | None = Field(default=None, ge=1)
    """Copies of the model that run in parallel. None: as many as fit on the cluster as it is now. Set it if the cluster
    grows on demand."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs of each worker, and so its threads."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """GPUs of each worker. 0.5: two copies of the model share a GPU. 2 or more: the blocks of a model too large for one
    GPU are divided among them. 0: it runs on the CPU. None: 1 if the cluster has GPUs now, else 0. Set it if the
    cluster grows on demand."""
    attempts: int = Field(default=3, ge=1)
    """How often a shard is tried if its worker dies. Then it is reported, and the others go on. Also how often reading
    or writing at the destination is tried if it fails for the moment."""
    finish_without_failed: bool = False
    """If shards fail for good, finish the store without their texts, and name them in its manifest. The same command
    tries them again."""

    @property
    def all_positions(self) -> tuple[Position, ...]:
        """All positions, those of `powers_of_two` included: indices in order, then names."""
        if self.powers_of_two is not None:
            return tuple(1 << i for i in range(self.powers_of_two.bit_length()))
        indices = sorted(position for position in self.positions if isinstance(position, int))
        return (*indices, *(position for position in self.positions if not isinstance(position, int)))

    @field_validator("gpus_per_worker")
    @classmethod
    def _check_gpus(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(
                f"{gpus:g} GPUs: expected a share of one GPU, or a whole number of GPUs to divide the model among"
            )
        return gpus

    @model_validator(mode="after")
    def _check_positions(self) -> Self:
        if self.powers_of_two is None and not (self.positions and len(set(self.positions)) == len(self.positions)):
            raise ValueError(f"positions {self.positions}: expected at least one, each named once")
        if "all" in self.positions and len(self.positions) > 1 and self.powers_of_two is None:
            raise ValueError(f"positions {self.positions}: all takes every token, so it stands alone")
        if self.tokens != TokensConfig() and self.all_positions != ("all",):
            raise ValueError(f"tokens choose among all tokens, but positions are {self.all_positions}: expected all")
        return self
