"""The files of an activation store and the records that describe it (docs/formats.md).

request.json                          written first: what the store is for
rows.json                             what was found in the corpus, and a record of each rows file
rows/00003.parquet                    the texts of shard 3: text_id, token_ids, text, and what their kind adds
cells/residual/layer-05/position-00016/00003.safetensors
                                      their activations: one tensor `activations` [n, d]
predictions/00003.parquet             what the model answered, where the texts ask for a label
receipts/00003.json                   written when every file of shard 3 is: their sizes and checksums
manifest.json                         written last: what the store holds
failures.json                         after a run in which shards failed: which, and why
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field

from bae_ray.activations.config import Position, Precision
from bae_ray.config import Record
from bae_ray.storage import FileRecord

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
REQUEST = "request.json"
ROWS_INDEX = "rows.json"
RECEIPTS = "receipts"
TENSOR = "activations"


class Cell(NamedTuple):
    """One (layer, site, position) of a store; its activations are one matrix [n, d]."""

    layer: int
    site: str
    position: Position

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.site}, position {self.position}"

    @property
    def name(self) -> str:
        """The cell as a relative path."""
        position = f"{self.position:05d}" if isinstance(self.position, int) else self.position
        return f"{self.site}/layer-{self.layer:02d}/position-{position}"

    def file(self, shard: int) -> str:
        """Path of one shard of this cell, relative to the store."""
        return f"cells/{self.name}/{shard:05d}.safetensors"


def rows_file(shard: int) -> str:
    """Path of the texts of one shard, relative to the store."""
    return f"rows/{shard:05d}.parquet"


def predictions_file(shard: int) -> str:
    """Path of the model's answers to the texts of one shard, relative to the store."""
    return f"predictions/{shard:05d}.parquet"


def receipt_file(shard: int) -> str:
    """Path of the receipt of one shard, relative to the store."""
    return f"{RECEIPTS}/{shard:05d}.json"


class Request(Record):
    """What determines a store: two stores with equal requests hold the same vectors."""

    format_version: Literal[2] = FORMAT_VERSION
    model: dict[str, Any]
    tokenizer: dict[str, Any]
    input: dict[str, Any]
    """The kind of the texts, the corpus with its content, and how the texts are made from it."""
    layers: tuple[int, ...]
    sites: tuple[str, ...]
    positions: tuple[Position, ...]
    tokens: dict[str, Any] | None = None
    """With position `all`: which tokens of a text were taken."""
    dtype: Precision
    compile: bool = False
    """Whether the model was compiled, which changes rounding. Unknown in earlier stores."""
    batch_size: int | None
    batch_tokens: int | None
    """None, where a GPU measures them: the receipts say what was used."""
    shard_size: int
    shard_mb: int

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell of the store, layer by layer."""
        return tuple(
            Cell(layer, site, position) for layer in self.layers for site in self.sites for position in self.positions
        )


class ShardRows(Record):
    """The texts of one shard."""

    texts: int
    n: int
    """Number of their vectors in each cell: one per text, or with position `all` one per token taken."""
    tokens: int
    file: FileRecord


class WindowedTexts(Record):
    """Counts of the texts that windows are cut out of; lengths in tokens, without special tokens around them."""

    model_config = ConfigDict(frozen=False)

    lines: bool = False
    """Whether each is a line of a .txt file."""
    texts: int = 0
    """Number of texts that are not missing, empty or blank."""
    empty: int = 0
    """Number of texts that are."""
    tokens: int = 0
    shortest: int = 0
    longest: int = 0

    def add(self, empty: int, lengths: Sequence[int]) -> None:
        """Count more of them."""
        if lengths:
            self.shortest = min(self.shortest if self.texts else lengths[0], *lengths)
            self.longest = max(self.longest, *lengths)
        self.texts += len(lengths)
        self.empty += empty
        self.tokens += sum(lengths)

    def __str__(self) -> str:
        empty = f"; {self.empty} empty ones are left out" if self.empty else ""
        mean = self.tokens / max(self.texts, 1)
        lines = " Each line of a .txt file is a text; with --txt document each file is one." if self.lines else ""
        return (
            f"{self.texts} texts of {self.shortest} to {self.longest} tokens, {mean:.0f} on average, an end token "
            f"between two if they are joined{empty}.{lines}"
        )


class RowsIndex(Record):
    """The counts of the corpus; written when every rows file is."""

    texts_read: int
    texts_too_short: int
    texts_too_long: int
    texts_empty: int = 0
    windowed: WindowedTexts | None = None
    shards: tuple[ShardRows, ...]

    @property
    def n(self) -> int:
        """Vectors of each cell."""
        return sum(shard.n for shard in self.shards)

    @property
    def texts(self) -> int:
        """Texts kept."""
        return sum(shard.texts for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens of the texts kept."""
        return sum(shard.tokens for shard in self.shards)


class Receipt(Record):
    """One finished shard: its numbers of texts and vectors, and the records of its files."""

    shard: int
    texts: int
    n: int
    files: dict[str, FileRecord]
    made_with: dict[str, str] = Field(default_factory=dict)
    """The device and the versions of libraries, on which rounding depends."""


class Failure(Record):
    """A shard that could not be computed or written in any attempt."""

    shard: int
    texts: int
    first_text_id: int | None
    last_text_id: int | None
    """Number of its last text, as the one above of its first; None where its rows cannot be read."""
    reason: str
    traceback: str = ""
    """Where an unexpected error arose. Earlier stores do not say."""

    def __str__(self) -> str:
        ids = "" if self.first_text_id is None else f", text_id {self.first_text_id} to {self.last_text_id}"
        return f"shard {self.shard} ({self.texts} texts, {rows_file(self.shard)}{ids}): {self.reason}"


class Probe(Record):
    """The test of the model before the extraction: a vector may depend only on the tokens up to its own.

    Differences are relative to the vectors' length, averaged over tokens, the largest of all layers and sites.
    """

    texts: Literal["made up", "of the corpus"]
    tokens: int
    """Tokens of the texts compared."""
    tolerance: float
    """A larger difference would have ended the extraction."""
    later_token: float
    """Difference of vectors before a changed token."""
    batched: float
    """Difference between a text alone and padded in a batch."""
    cut: float
    """Difference between a whole text and its beginning only."""
    numbering: str
    """How layer l relates to transformers' `hidden_states`."""

    def __str__(self) -> str:
        return (
            f"a later token changes vectors by {self.later_token:.1g} of their length, texts beside them by "
            f"{self.batched:.1g}, a cut by {self.cut:.1g} ({self.tokens} tokens {self.texts}; rounding explains "
            f"{self.tolerance:g}); layer l is {self.numbering}"
        )


class Manifest(Record):
    """What a finished store holds."""

    request: Request
    d: int
    n: int
    """Vectors of each cell."""
    texts: int
    """Number of texts of these vectors."""
    tokens: int
    """Tokens of these texts."""
    texts_read: int
    """Texts of the corpus that were read."""
    texts_too_short: int
    """How many of them did not reach the last position, or had no token to take."""
    texts_too_long: int
    """How many of them did not fit the model's context, so that their last token has no vector."""
    texts_empty: int = 0
    """How many of those too short were null, empty or blank."""
    windowed: WindowedTexts | None = None
    """Windows: the texts that they were cut out of."""
    shards: tuple[Receipt, ...]
    """Receipts in the order of their shards; those of failed shards are missing."""
    failed: tuple[Failure, ...] = ()
    """Failed shards, without which the store was finished as requested."""
    probe: Probe | None = None
    """Results of the test of the model. Missing in earlier stores."""
