"""What JSON bodies and answers look like."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bae_ray.serving.registry.entry import EncoderOrigin


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class PackedArray(_Schema):
    """An array as base64 of its little-endian bytes, row by row."""

    data: str = Field(json_schema_extra={"contentEncoding": "base64"})
    dtype: Literal["float64", "float32", "float16", "bfloat16", "uint8", "int32", "int64"]
    shape: list[int] = Field(min_length=1, max_length=2)


Matrix = list[list[float]] | PackedArray
Codes = list[list[int]] | PackedArray


class Limits(_Schema):
    """What one request may ask for."""

    max_body_bytes: int
    max_response_bytes: int
    max_rows: int
    max_texts: int
    max_tokens: int
    max_new_tokens: int
    max_features: int
    body_timeout_s: float
    deadline_s: float


class EncoderInfo(_Schema):
    """An encoder of the registry."""

    id: str
    status: Literal["ready", "broken"]
    reason: str | None = None
    """Why it is broken."""
    version: str
    """Changes when the encoder's files do."""
    architecture: str | None = None
    binary: bool | None = None
    """Whether its latents are a code of 0 and 1."""
    d_in: int | None = None
    d_latent: int | None = None
    n_features: int | None = None
    prior_bits: float | None = None
    """Marginal entropy of its firing rates over the reference set; null where they are not known, as of most encoders
    that were imported: then there are no magnitudes of a binary one."""
    origin: EncoderOrigin | None = None
    measures: dict[str, float] = {}
    """Of the run that trained it, as in its result.json."""
    config: dict[str, Any] | None = None
    limits: Limits


class EncoderList(_Schema):
    """Encoders of the registry that the key is for, in the order of their ids."""

    encoders: list[EncoderInfo]
    next: str | None = None
    """Where there are more than `limit`: what to give as `after` for the next of them."""


class EncodeBody(_Schema):
    """Activations to encode."""

    x: Matrix = Field(description="Activations [n, d_in], finite.")
    encoder: str | None = Field(default=None, description="In an answer of decode, which may be sent as it is.")


class EncodeAnswer(_Schema):
    """Codes of activations; which of the arrays are there, the query says."""

    encoder: str
    d_latent: int
    format: Literal["packed", "indices", "magnitudes"]
    top_k: int | None = None
    """How many of the largest were asked for."""
    code: Codes | None = None
    """packed: [n, ceil(d_latent / 8)] bytes, the first latent in the highest bit of the first one."""
    indices: Codes | None = None
    """indices: the latents that fire, a list per row. With top_k: [n, top_k], the largest magnitude first."""
    splits: PackedArray | None = None
    """arrays=base64: indices[splits[i]] to indices[splits[i + 1]] are row i's."""
    magnitudes: Matrix | None = None
    """magnitudes: [n, n_features], or with top_k those of the indices."""


class DecodeBody(_Schema):
    """One of code, indices, latents and magnitudes; an answer of encode may be sent as it is."""

    code: Codes | None = Field(default=None, description="Packed codes [n, ceil(d_latent / 8)], binary encoders only.")
    indices: Codes | None = Field(
        default=None, description="The latents that fire, a list per row, or all of them flat with splits."
    )
    splits: PackedArray | None = Field(default=None, description="[n + 1]: where each row's indices begin.")
    latents: Matrix | None = Field(default=None, description="Latents [n, d_latent].")
    magnitudes: Matrix | None = Field(
        default=None,
        description="Latents of an encoder that is not binary, nor standardised: all of them, or those at indices.",
    )
    encoder: str | None = Field(default=None, description="The id in the address, if it is there.")
    d_latent: int | None = Field(default=None, description="The encoder's, if it is there.")
    format: Literal["packed", "indices", "magnitudes"] | None = None
    top_k: int | None = Field(default=None, description="Of encoders that are not binary.")


class DecodeAnswer(_Schema):
    """Reconstructed activations."""

    encoder: str
    x: Matrix
    """[n, d]"""


class CompressAnswer(_Schema):
    """A container of the codec."""

    encoder: str
    rows: int
    bytes: int
    data: str
    """base64"""


class DecompressBody(_Schema):
    """A container of the codec."""

    data: str = Field(description="The container, base64.")
    encoder: str | None = None
    rows: int | None = None
    bytes: int | None = None


class DecompressAnswer(_Schema):
    """What was in a container."""

    encoder: str
    x: Matrix | None = None
    """format=x: activations [n, d]."""
    code: Codes | None = None
    """format=packed: [n, ceil(d_latent / 8)] bytes."""


class FeatureAnswer(_Schema):
    """A feature of an encoder."""

    encoder: str
    index: int
    firing_rate: float | None = None
    """Share of the reference set on which it fires."""
    direction: list[float] | PackedArray
    """[d]: what the reconstruction gains where the feature is 1."""
    similar_indices: list[int] | PackedArray
    """The features whose directions have the largest cosine with it."""
    similar_cosines: list[float] | PackedArray
    card: dict[str, Any] | None = None
    """What ComSem found of it, in Neuronpedia's form: explanations with scores, tokens in context with activations.
    None where it is not named, or too rare to be."""


class TextsBody(_Schema):
    """Texts for the encoder's language model."""

    texts: list[str] = Field(min_length=1)


class TokenFeature(_Schema):
    """A feature of a token."""

    index: int
    magnitude: float


class Token(_Schema):
    """A token, and its features of the largest magnitude."""

    id: int
    text: str
    start: int
    """Where it begins in the text, in characters."""
    end: int
    features: list[TokenFeature]


class TextAnswer(_Schema):
    """The tokens of a text."""

    tokens: list[Token]


class TextsAnswer(_Schema):
    """The tokens of texts."""

    encoder: str
    model: str
    layer: int
    site: str
    texts: list[TextAnswer]


class AddedFeature(_Schema):
    """A feature whose direction is added to the activations."""

    feature: int = Field(ge=0, description="A latent: of an encoder with several bits per feature, one of its bits.")
    strength: float = Field(allow_inf_nan=False, description="How many times its direction is added.")


class ClampedFeature(_Schema):
    """A feature that is held at a value, whatever the text says."""

    feature: int = Field(ge=0)
    value: float = Field(allow_inf_nan=False, description="In the encoder's own units: of a binary one 0 or 1.")


class SteerBody(_Schema):
    """A text to go on from, and what is done to the language model meanwhile: at least one feature is named."""

    text: str = Field(min_length=1)
    add: list[AddedFeature] = []
    clamp: list[ClampedFeature] = []
    ablate: list[Annotated[int, Field(ge=0)]] = Field(default=[], description="Features that are held at 0.")
    tokens: Literal["last", "all"] = Field(
        default="last", description="From the text's last token on, or at all tokens."
    )
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="At most max_new_tokens of the limits; left out, 32 or fewer."
    )
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="0: always the likeliest token.")
    seed: int = Field(default=0, ge=0, lt=1 << 53)


class SteerToken(_Schema):
    """The data of an event `token`: the next token of one of the continuations."""

    side: Literal["steered", "plain"]
    token_id: int
    text: str
    """What it adds to the text; empty where a character takes more tokens."""


class Continuation(_Schema):
    """What was written after the text."""

    text: str
    token_ids: list[int]
    """Without the token that ended it."""
    ended: bool
    """Whether the model ended it; otherwise it was cut at max_new_tokens."""


class SteerAnswer(_Schema):
    """What the language model wrote with the edits, and without, by the same random numbers."""

    encoder: str
    model: str
    layer: int
    site: str
    steered: Continuation
    plain: Continuation


class FidelityBody(_Schema):
    """Texts whose activations the encoder's reconstruction takes the place of."""

    texts: list[str] = Field(min_length=1)
    first: bool = Field(default=True, description="Whether each text's first token is replaced as well.")


class Fidelity(_Schema):
    """Means over the tokens that can see what was replaced and whose next one is known; nats per token."""

    tokens: int
    ce_clean: float | None
    """Cross-entropy of the unchanged model; null, as all of these, where no next token is known."""
    ce_spliced: float | None
    ce_mean: float | None
    """With the mean in place; null where the encoder holds none."""
    ce_zero: float | None
    ce_recovered: float | None
    """(ce_zero - ce_spliced) / (ce_zero - ce_clean)."""
    ce_recovered_mean: float | None
    """The same against the mean."""
    kl: float
    """KL(clean || spliced) of the next token's distributions."""
    jsd: float
    top1_agreement: float


class FidelityAnswer(_Schema):
    """What the language model still predicts: over all texts, and of each."""

    encoder: str
    model: str
    layer: int
    site: str
    position: int | str
    """Which tokens are replaced: the one that the encoder was trained at, or all."""
    all: Fidelity
    texts: list[Fidelity]


class Alive(_Schema):
    """A sign of life."""

    status: Literal["ok"] = "ok"
