"""Bodies and answers of steering and fidelity: what features do to a language model."""

from typing import Annotated, Literal

from pydantic import Field

from bae_ray.serving.http.schemas import Schema


class AddedFeature(Schema):
    """A feature whose direction is added to the activations."""

    feature: int = Field(ge=0, description="Index of a latent. With several bits per feature, it is one of the bits.")
    strength: float = Field(allow_inf_nan=False, description="Factor by which its direction is multiplied.")


class ClampedFeature(Schema):
    """A feature that is held at a value, whatever the text says."""

    feature: int = Field(ge=0)
    value: float = Field(allow_inf_nan=False, description="In the encoder's own units. Binary: 0 or 1.")


class SteerBody(Schema):
    """A text to continue, and the features to add, clamp or ablate meanwhile: at least one."""

    text: str = Field(min_length=1)
    add: list[AddedFeature] = Field(default=[])
    clamp: list[ClampedFeature] = Field(default=[])
    ablate: list[Annotated[int, Field(ge=0)]] = Field(default=[], description="Features to hold at 0.")
    tokens: Literal["last", "all"] = Field(
        default="last", description="Edit from the text's last token on, or at all tokens."
    )
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="At most max_new_tokens of the limits. null: 32, or the limit if smaller."
    )
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="0: always the likeliest token.")
    seed: int = Field(default=0, ge=0, lt=1 << 53)


class SteerToken(Schema):
    """The data of an event `token`: the next token of one of the continuations."""

    side: Literal["steered", "plain"]
    token_id: int
    text: str
    """What it adds to the text; empty while a character needs further tokens."""


class Continuation(Schema):
    """What the model wrote after the text."""

    text: str
    token_ids: list[int]
    """The new tokens, without the one that ended the text."""
    ended: bool
    """Whether the model ended the text; otherwise it was cut at max_new_tokens."""


class SteerAnswer(Schema):
    """What the language model wrote with the edits and without, from the same random numbers."""

    encoder: str
    model: str
    layer: int
    site: str
    steered: Continuation
    plain: Continuation


class FidelityBody(Schema):
    """Texts to measure fidelity on: the encoder's reconstruction replaces their activations."""

    texts: list[str] = Field(min_length=1)
    first: bool = Field(default=True, description="Also replace each text's first token.")


class Fidelity(Schema):
    """Means over tokens that see a replaced activation and have a next token; ce_, kl and jsd in nats."""

    tokens: int
    ce_clean: float | None
    """Cross-entropy (CE) of the unchanged model. All ce_ fields are null if no token has a next one."""
    ce_spliced: float | None
    ce_mean: float | None
    """CE with the mean in place of the activations; null if the encoder holds no mean."""
    ce_zero: float | None
    ce_recovered: float | None
    """(ce_zero - ce_spliced) / (ce_zero - ce_clean)."""
    ce_recovered_mean: float | None
    """The same with ce_mean in place of ce_zero."""
    kl: float
    """KL(clean || spliced) of the next-token distributions."""
    jsd: float
    top1_agreement: float


class FidelityAnswer(Schema):
    """Fidelity over all texts, and of each text."""

    encoder: str
    model: str
    layer: int
    site: str
    position: int | str
    """Position of the replaced tokens: the one that the encoder was trained at, or all."""
    all: Fidelity
    texts: list[Fidelity]
