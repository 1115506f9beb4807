"""Kinds of input of the language model: texts, windows, in-context-learning prompts, random sequences."""

from typing import Annotated, Literal

from pydantic import Field

from bae_ray.config import Config


class TextsInput(Config):
    """Each text of the corpus."""

    kind: Literal["texts"] = "texts"
    """What the model reads: texts, windows, icl or random_tokens; the options beside are this one's."""


class WindowsInput(Config):
    """Windows of equal length out of long texts, or out of all texts joined: no padding, no text too short."""

    kind: Literal["windows"] = "windows"
    """What the model reads: texts, windows, icl or random_tokens; the options beside are this one's."""
    length: int = Field(default=1024, ge=1)
    """Tokens per window. What is left at the end is dropped."""
    joined: bool = True
    """Join the texts of the corpus, an end-of-text token between them, and cut the whole; otherwise each text is cut by
    itself."""
    start_token: bool = True
    """Begin each window with the start token, if the tokenizer puts one before a text."""


class ICLInput(Config):
    """In-context-learning prompts of a labelled corpus (the paper's Fig. 8): k demonstrations, then the query."""

    kind: Literal["icl"] = "icl"
    """What the model reads: texts, windows, icl or random_tokens; the options beside are this one's."""
    k: int = Field(default=4, ge=0)
    """Demonstrations per prompt."""
    demonstrations: Literal["sampled", "fixed"] = "sampled"
    """sampled: drawn anew for each query, never the query's own text. fixed: the corpus's first k for all queries, as
    in the released code, where the query may be one of them."""
    seed: int = Field(default=0, ge=0)
    """Seed of queries and demonstrations. The same queries come for every k, but for those whose prompt of this k is
    too long for the model; a smaller k's demonstrations are the first of a larger one's."""
    label_column: str = "label"
    """The column that holds the label: a number from 0, or a word."""
    label_words: tuple[str, ...] | None = None
    """The word for each label, in the order of their numbers. Left out: the bundled corpus's own, or the labels
    themselves where they are words."""
    text_prefix: str | None = None
    """Text before each example's text. Left out: the bundled corpus's own, else "sentence: "."""
    label_prefix: str | None = None
    """Text before each label. Left out: the bundled corpus's own, else "label: "."""


class RandomTokensInput(Config):
    """Random sequences over two tokens, whose set has as many bits as each has tokens (the paper's Appendix B)."""

    kind: Literal["random_tokens"] = "random_tokens"
    """What the model reads: texts, windows, icl or random_tokens; the options beside are this one's."""
    bits: int = Field(default=8, ge=1)
    """Tokens per sequence, each one of the two with equal chance: r."""
    tokens: tuple[int, int] = (0, 1)
    """The two tokens' ids."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sequences."""


InputConfig = Annotated[TextsInput | WindowsInput | ICLInput | RandomTokensInput, Field(discriminator="kind")]
"""What the model reads; the field `kind` says which."""

INPUTS = {one.model_fields["kind"].default: one for one in (TextsInput, WindowsInput, ICLInput, RandomTokensInput)}
"""Config class of each kind."""
