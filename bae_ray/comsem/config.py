"""Settings of ComSem: examples, judge, scores and controls."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from bae_ray.activations.config import DEFAULT_CORPUS, DEFAULT_MODEL, Precision
from bae_ray.config import Config
from bae_ray.locations import PlaceName

RANDOM = "random"
"""A method of the table without an autoencoder: sets of tokens drawn at random."""


class ExamplesConfig(Config):
    """Which tokens are the examples of a feature (Algorithm 1, step 1)."""

    k: int = Field(default=10, ge=1)
    """A feature counts as activated on a token where its magnitude is among the k largest of all features."""
    n_interpret: int = Field(default=5, ge=1)
    """n_I: number of examples that a feature is interpreted from. A feature with no more than these is inactive."""
    n_test: int = Field(default=8, ge=1)
    """n_T: largest number of further examples that the explanation is judged on."""
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
    """Number of tokens of the largest magnitude on a feature's card."""
    top_context: int = Field(default=12, ge=1)
    """Number of tokens shown on either side of each of these, with their magnitudes."""


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
    """Longest sentence in tokens; longer ones are cut."""
    dtype: Precision = "float32"
    """Precision of the forward pass and of the activations."""


class AskingConfig(Config):
    """How requests to a judge are made, wherever it runs."""

    judge_model: str = DEFAULT_MODEL
    """Name of the model at the server."""
    judge_key: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key. A local server needs none."""
    judge_id: str | None = None
    """Name under which answers are cached. Left out: the address. Set it for a judge whose address changes with each
    start: otherwise all requests are sent again."""
    cache: Path | None = None
    """File with the cached answers. Left out: judge.sqlite in the output folder."""
    in_flight: int = Field(default=64, ge=1)
    """Largest number of requests under way at once."""
    attempts: int = Field(default=6, ge=1)
    """How often a request is sent at most. It is repeated only after failures that may pass."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds to wait for an answer."""
    backoff_s: float = Field(default=0.5, ge=0)
    """Seconds before the second attempt, doubled with each further one. A server's Retry-After takes precedence."""
    input_price: float = Field(default=0.0, ge=0)
    """Dollars per million prompt tokens."""
    output_price: float = Field(default=0.0, ge=0)
    """Dollars per million tokens of the answers."""
    max_cost: float | None = Field(default=None, gt=0)
    """Largest total cost in dollars of all answers in the cache. The run stops before it is passed."""
    reasoning: int = Field(default=0, ge=0)
    """Tokens allowed for reasoning, beyond those of the answer: 1024 or more for a reasoning model. An answer that is
    cut off counts as unreadable."""
    calibrated: bool = False
    """A decision is Yes where P(Yes) is above that of a question without content (Zhao et al., 2021), and not by the
    word of the answer. Needs a server that gives log probabilities."""

    @model_validator(mode="after")
    def _check_prices(self) -> Self:
        if self.max_cost is not None and self.input_price == 0 and self.output_price == 0:
            raise ValueError("max_cost is given but no price: say what tokens cost with input_price and output_price")
        return self


class JudgeConfig(AskingConfig):
    """The language model that explains and judges, at any server with OpenAI's chat completions."""

    judge_url: str = "http://localhost:8000/v1"
    """Address of its API."""


class ScoringConfig(Config):
    """How features are scored, and the controls beside the scores."""

    interpretations: int = Field(default=1, ge=1)
    """Explanations per feature. The one that fits the examples it was made from best is tested."""
    random_features: int = Field(default=64, ge=0)
    """Control: number of sets of random tokens that are explained and judged like features."""
    shuffled: int | None = Field(default=None, ge=0)
    """Control: number of features whose explanation is also judged on the tokens of another feature. Left out: all."""
    max_features: int | None = Field(default=None, ge=1)
    """Score a random sample of this many active features. Act. still counts all. Left out: all are scored."""


class ComSemConfig(JudgeConfig):
    """Name and score the features of autoencoders."""

    autoencoders: tuple[PlaceName, ...]
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
    """Which tokens are the examples of a feature."""
    scoring: ScoringConfig = ScoringConfig()
    """How features are scored."""
    workers: int = Field(default=1, ge=1)
    """Ray processes that collect examples; 1: this process collects them."""
    gpus_per_worker: float = Field(default=0, ge=0, le=1)
    """GPU share of each process, where there are several."""
