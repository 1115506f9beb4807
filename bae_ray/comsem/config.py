"""What ComSem does: which examples it takes, which judge it asks, what it controls for."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from bae_ray.activations.config import DEFAULT_CORPUS, DEFAULT_MODEL, Precision
from bae_ray.config import Config

RANDOM = "random"
"""In place of an autoencoder: token sets drawn at random, as a method of the table."""


class ExamplesConfig(Config):
    """Which tokens a feature is told by (Algorithm 1, step 1)."""

    k: int = Field(default=10, ge=1)
    """A feature counts as activated on a token where its magnitude is among the k largest of all features."""
    n_interpret: int = Field(default=5, ge=1)
    """n_I: examples that a feature is interpreted from. One with no more than these is inactive."""
    n_test: int = Field(default=8, ge=1)
    """n_T: further examples, at most, that its explanation is judged on."""
    order: Literal["first", "sampled"] = "first"
    """Which of a feature's examples are taken: the first, as in Algorithm 1, or a random sample of all of them."""
    seed: int = Field(default=0, ge=0)
    """Seed of that sample, and of the controls."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Use only the first this many tokens (the N of Algorithm 1 counted in tokens). Left out: all of the sentences."""
    skip_zero: bool = False
    """Leave out latents of magnitude 0, which Algorithm 1 selects where fewer than k fire."""
    context_tokens: int = Field(default=32, ge=1)
    """The judge sees at most so many tokens of the sentence on either side of the token."""
    top: int = Field(default=10, ge=0)
    """Tokens of the largest magnitude kept for a feature's card."""
    top_context: int = Field(default=12, ge=1)
    """Tokens on either side of each of them, with their magnitudes."""


class EvaluationConfig(Config):
    """The evaluation set, extracted where no store is given."""

    model: str = DEFAULT_MODEL
    """The language model that the autoencoders were trained on: bundled, a local folder, or a hub id."""
    revision: str | None = None
    """Revision of a hub model."""
    corpus: str = DEFAULT_CORPUS
    """Sentences: a bundled corpus, local files, or a data set of the Hugging Face hub."""
    text_column: str = "text"
    """The column that holds the text."""
    split: str = "train"
    """Split of a hub data set."""
    subset: str | None = None
    """Subset (configuration) of a hub data set."""
    sentences: int = Field(default=8192, ge=2)
    """N: the first this many sentences, every token of each."""
    sentence_tokens: int = Field(default=128, ge=2)
    """Sentences are cut after so many tokens."""
    dtype: Precision = "float32"
    """Precision of the forward pass and of the activations."""


class AskingConfig(Config):
    """How a judge is asked, wherever it is."""

    judge_model: str = DEFAULT_MODEL
    """Its name there."""
    judge_key: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; a server of one's own needs none."""
    judge_id: str | None = None
    """What its answers are kept under. Left out: its address; say it of a judge that comes up at another one each
    time, or what it has answered is asked again."""
    cache: Path | None = None
    """File of answers already paid for, by request. Left out: judge.sqlite in the output folder."""
    in_flight: int = Field(default=64, ge=1)
    """Requests sent at once, at most."""
    attempts: int = Field(default=6, ge=1)
    """How often a request is sent that fails for a reason that may pass."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds to wait for an answer."""
    backoff_s: float = Field(default=0.5, ge=0)
    """Seconds before the second attempt; they double with each further one. A server's Retry-After goes first."""
    input_price: float = Field(default=0.0, ge=0)
    """Dollars per million prompt tokens."""
    output_price: float = Field(default=0.0, ge=0)
    """Dollars per million tokens answered."""
    max_cost: float | None = Field(default=None, gt=0)
    """Stop before all that the cache has paid for costs more dollars than this."""
    reasoning: int = Field(default=0, ge=0)
    """Tokens for what a judge says before its answer or after it, beyond those of the answer: 1024 or more for one that
    thinks. What is cut off counts as unreadable."""
    calibrated: bool = False
    """Decide by whether P(Yes) is above that of a question without content (Zhao et al., 2021), not by the answer's
    word. Needs a server that gives log probabilities."""

    @model_validator(mode="after")
    def _check_prices(self) -> Self:
        if self.max_cost is not None and self.input_price == 0 and self.output_price == 0:
            raise ValueError("max_cost is given but no price: say what tokens cost with input_price and output_price")
        return self


class JudgeConfig(AskingConfig):
    """The language model that explains and judges: any server that speaks OpenAI's chat completions."""

    judge_url: str = "http://localhost:8000/v1"
    """Address of its API."""


class ScoringConfig(Config):
    """How features are scored, and what the scores are held against."""

    interpretations: int = Field(default=1, ge=1)
    """Explanations asked for per feature; the one that fits the examples it was made from best is tested."""
    random_features: int = Field(default=64, ge=0)
    """Control: so many sets of random tokens, explained and judged like features."""
    shuffled: int | None = Field(default=None, ge=0)
    """Control: explanations of so many features judged on another one's tokens, too. Left out: of all."""
    max_features: int | None = Field(default=None, ge=1)
    """Score only so many active features, drawn at random; Act. still counts all. Left out: all."""


class ComSemConfig(JudgeConfig):
    """Name and score the features of autoencoders."""

    autoencoders: tuple[str, ...]
    """Folders of autoencoders, such as runs of a sweep, ids on the Hugging Face hub, or random: random token sets."""
    store: str | None = None
    """Activation store of the evaluation set, extracted with --positions all. Left out: it is extracted."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The evaluation set where no store is given."""
    tokenizer: str | None = None
    """Folder or hub id of the store's tokenizer. Left out: of the model that the store names."""
    other_model: bool = False
    """Score autoencoders on activations of another language model than the one that they were trained on."""
    layer: int | None = Field(default=None, ge=0)
    """Layer of the autoencoders. Left out: what their runs say."""
    site: str | None = None
    """Site of the autoencoders. Left out: what their runs say, else residual."""
    examples: ExamplesConfig = ExamplesConfig()
    """Which tokens a feature is told by."""
    scoring: ScoringConfig = ScoringConfig()
    """How features are scored."""
    workers: int = Field(default=1, ge=1)
    """Processes that look for examples, by Ray; 1: this one."""
    gpus_per_worker: float = Field(default=0, ge=0, le=1)
    """GPU share of each, where there are several."""
