"""JSON bodies and answers."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bae_ray.serving.registry.entry import EncoderOrigin


class Schema(BaseModel):
    """A body or an answer."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class PackedArray(Schema):
    """An array as base64 of its little-endian bytes, row by row."""

    data: str = Field(json_schema_extra={"contentEncoding": "base64"})
    dtype: Literal["float64", "float32", "float16", "bfloat16", "uint8", "int32", "int64"]
    shape: list[int] = Field(min_length=1, max_length=2)


Matrix = list[list[float]] | PackedArray
Codes = list[list[int]] | PackedArray


class Limits(Schema):
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


class EncoderInfo(Schema):
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
    """Marginal entropy of its firing rates over the reference set. null if these are not known, as for most imported
    encoders; then the features of a binary encoder have no magnitudes."""
    origin: EncoderOrigin | None = None
    measures: dict[str, float] = {}
    """Measures of the run that trained it, as in its result.json."""
    config: dict[str, Any] | None = None
    limits: Limits


class EncoderList(Schema):
    """The registry's encoders that the key may use, in the order of their ids."""

    encoders: list[EncoderInfo]
    next: str | None = None
    """If there are more than `limit`: the value of `after` for the next page."""


class EncodeBody(Schema):
    """Activations to encode."""

    x: Matrix = Field(description="Activations [n, d_in], finite.")
    encoder: str | None = Field(default=None, description="In an answer of decode, which you can send unchanged.")


class EncodeAnswer(Schema):
    """Codes of activations. The query decides which arrays are there."""

    encoder: str
    d_latent: int
    format: Literal["packed", "indices", "magnitudes"]
    top_k: int | None = None
    """The top_k of the query."""
    code: Codes | None = None
    """packed: [n, ceil(d_latent / 8)] bytes, the first latent in the highest bit of the first byte."""
    indices: Codes | None = None
    """indices: the latents that fire, a list per row. With top_k: [n, top_k], the largest magnitude first."""
    splits: PackedArray | None = None
    """arrays=base64: row i has indices[splits[i]:splits[i + 1]]."""
    magnitudes: Matrix | None = None
    """magnitudes: [n, n_features]; with top_k, those of the indices."""


class DecodeBody(Schema):
    """One of code, indices, latents and magnitudes. You can send an answer of encode unchanged."""

    code: Codes | None = Field(default=None, description="Packed codes [n, ceil(d_latent / 8)], binary encoders only.")
    indices: Codes | None = Field(
        default=None, description="The latents that fire: a list per row, or one flat list with splits."
    )
    splits: PackedArray | None = Field(default=None, description="[n + 1]: where each row's indices begin.")
    latents: Matrix | None = Field(default=None, description="Latents [n, d_latent].")
    magnitudes: Matrix | None = Field(
        default=None,
        description="Latents of an encoder that is neither binary nor standardised: all, or those at indices.",
    )
    encoder: str | None = Field(default=None, description="If given, must be the id in the address.")
    d_latent: int | None = Field(default=None, description="If given, must be the encoder's.")
    format: Literal["packed", "indices", "magnitudes"] | None = None
    top_k: int | None = Field(default=None, description="Only for encoders that are not binary.")


class DecodeAnswer(Schema):
    """Reconstructed activations."""

    encoder: str
    x: Matrix
    """[n, d]"""


class CompressAnswer(Schema):
    """A container of the codec."""

    encoder: str
    rows: int
    bytes: int
    data: str
    """base64"""


class DecompressBody(Schema):
    """A container of the codec."""

    data: str = Field(description="The container, in base64.")
    encoder: str | None = None
    rows: int | None = None
    bytes: int | None = None


class DecompressAnswer(Schema):
    """The content of a container."""

    encoder: str
    x: Matrix | None = None
    """format=x: activations [n, d]."""
    code: Codes | None = None
    """format=packed: [n, ceil(d_latent / 8)] bytes."""


class FeatureAnswer(Schema):
    """A feature of an encoder."""

    encoder: str
    index: int
    firing_rate: float | None = None
    """Share of the reference set on which it fires."""
    direction: list[float] | PackedArray
    """[d]: what the feature adds to the reconstruction when it is 1."""
    similar_indices: list[int] | PackedArray
    """The features with the largest cosine between their directions and its own."""
    similar_cosines: list[float] | PackedArray
    card: dict[str, Any] | None = None
    """What ComSem found about it, in Neuronpedia's form: explanations with scores, tokens in context with activations.
    null if it was not named or is too rare."""
    details: dict[str, Any] | None = None
    """Further content of its card's page: a histogram of magnitudes, words that it promotes, and more."""
    judge: dict[str, Any] | None = None
    """The judge that named and scored it: its accuracy, its bias, warnings."""


class TextsBody(Schema):
    """Texts for the encoder's language model."""

    texts: list[str] = Field(min_length=1)


class TokenFeature(Schema):
    """A feature of a token."""

    index: int
    magnitude: float


class Token(Schema):
    """A token, and its features with the largest magnitudes."""

    id: int
    text: str
    start: int
    """Index of its first character in the text."""
    end: int
    features: list[TokenFeature]
    error: float | None = None
    """fit=true: squared error of its activation's reconstruction, divided by the activation's squared distance from the
    mean. null for a transcoder, which reconstructs other activations."""
    bits: float | None = None
    """fit=true: -log2 of the probability of its code, if latents are independent with their firing rates. null if the
    encoder has no code or no firing rates."""


class TextAnswer(Schema):
    """The tokens of a text."""

    tokens: list[Token]


class TextsAnswer(Schema):
    """The tokens of texts."""

    encoder: str
    model: str
    layer: int
    site: str
    texts: list[TextAnswer]


class Alive(Schema):
    """The service's state."""

    status: Literal["ok"] = "ok"
