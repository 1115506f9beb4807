"""What bodies and answers look like of what features do to a language model: steering, and fidelity."""

from typing import Annotated, Literal

from pydantic import Field

from bae_ray.serving.http.schemas import Schema


class AddedFeature(Schema):
    """A feature whose direction is added to the activations."""

    feature: int = Field(ge=0, description="A latent: of an encoder with several bits per feature, one of its bits.")
    strength: float = Field(allow_inf_nan=False, description="How many times its direction is added.")


class ClampedFeature(Schema):
    """A feature that is held at a value, whatever the text says."""

    feature: int = Field(ge=0)
    value: float = Field(allow_inf_nan=False, description="In the encoder's own units: of a binary one 0 or 1.")


class SteerBody(Schema):
    """A text to go on from, and what is done to the language model meanwhile: at least one feature is named."""

    text: str = Field(min_length=1)
    add: list[AddedFeature] = Field(default=[])
    clamp: list[ClampedFeature] = Field(default=[])
    ablate: list[Annotated[int, Field(ge=0)]] = Field(default=[], description="Features that are held at 0.")
    tokens: Literal["last", "all"] = Field(
        default="last", description="From the text's last token on, or at all tokens."
    )
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="At most max_new_tokens of the limits; left out, 32 or fewer."
    )
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="0: always the likeliest token.")
    seed: int = Field(default=0, ge=0, lt=1 << 53)


class SteerToken(Schema):
    """The data of an event `token`: the next token of one of the continuations."""

    side: Literal["steered", "plain"]
    token_id: int
    text: str
    """What it adds to the text; empty where a character takes more tokens."""


class Continuation(Schema):
    """What was written after the text."""

    text: str
    token_ids: list[int]
    """Without the token that ended it."""
    ended: bool
    """Whether the model ended it; otherwise it was cut at max_new_tokens."""


class SteerAnswer(Schema):
    """What the language model wrote with the edits, and without, by the same random numbers."""

    encoder: str
    model: str
    layer: int
    site: str
    steered: Continuation
    plain: Continuation


class FidelityBody(Schema):
    """Texts whose activations the encoder's reconstruction takes the place of."""

    texts: list[str] = Field(min_length=1)
    first: bool = Field(default=True, description="Whether each text's first token is replaced as well.")


class Fidelity(Schema):
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


class FidelityAnswer(Schema):
    """What the language model still predicts: over all texts, and of each."""

    encoder: str
    model: str
    layer: int
    site: str
    position: int | str
    """Which tokens are replaced: the one that the encoder was trained at, or all."""
    all: Fidelity
    texts: list[Fidelity]
