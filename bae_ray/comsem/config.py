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
    """Which tokens are the examples of a feature (the paper's Algorithm 1, step 1)."""

    k: int = Field(default=10, ge=1)
    """A feature is active on a token if its magnitude is among the k largest of all features."""
    n_interpret: int = Field(default=5, ge=1)
    """n_I: number of examples from which the judge names a feature. A feature with no further examples is inactive."""
    n_test: int = Field(default=8, ge=1)
    """n_T: largest number of further examples on which the explanation (the feature's name) is judged."""
    order: Literal["first", "sampled"] = "first"
    """Which examples of a feature are taken. first: the first ones, as in Algorithm 1. sampled: a random sample of
    all."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampled examples and of the controls."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Largest number of tokens used, from the first on (N of Algorithm 1, in tokens). None: all tokens of all
    sentences."""
    skip_zero: bool = False
    """Ignore latents of magnitude 0. Algorithm 1 selects them where fewer than k latents fire."""
    context_tokens: int = Field(default=32, ge=1)
    """Largest number of tokens on either side of the token that the judge sees."""
    top: int = Field(default=10, ge=0)
    """Number of tokens on a feature's card: those with the largest magnitudes."""
    top_context: int = Field(default=12, ge=1)
    """Tokens of context on either side of each token on a card, with their magnitudes."""


class EvaluationConfig(Config):
    """The evaluation set, which is extracted if no store is given."""

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
    """N: number of sentences, from the first on. Every token of each is used."""
    sentence_tokens: int = Field(default=128, ge=2)
    """Longest sentence, in tokens; longer ones are cut."""
    dtype: Precision = "float32"
    """Precision of the forward pass and of the activations."""


class AskingConfig(Config):
    """How to send requests to a judge, wherever it runs."""

    judge_model: str = DEFAULT_MODEL
    """Name of the judge's model at the server."""
    judge_key: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the API key. A local server needs no key."""
    judge_id: str | None = None
    """Name under which answers are cached. None: the address. Set it if the judge's address changes with each start;
    otherwise all requests are sent again."""
    cache: Path | None = None
    """File of cached answers. None: judge.sqlite in the output folder."""
    in_flight: int = Field(default=64, ge=1)
    """Largest number of requests at a time."""
    attempts: int = Field(default=6, ge=1)
    """How often a request is sent, at most. It is repeated only after temporary failures."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds to wait for an answer."""
    backoff_s: float = Field(default=0.5, ge=0)
    """Seconds to wait before the second attempt; doubled for each further one. A server's Retry-After overrides it."""
    input_price: float = Field(default=0.0, ge=0)
    """Dollars per million prompt tokens."""
    output_price: float = Field(default=0.0, ge=0)
    """Dollars per million tokens of answers."""
    max_cost: float | None = Field(default=None, gt=0)
    """Largest total cost, in dollars, of all answers in the cache. The run stops before it exceeds this. None: no
    limit."""
    reasoning: int = Field(default=0, ge=0)
    """Tokens allowed for reasoning, on top of the answer's: 1024 or more for a reasoning model. An answer that is cut
    off counts as unreadable."""
    calibrated: bool = False
    """Decide by probability, not by the answer's word: Yes if P(Yes) is above that for a question without content (Zhao
    et al., 2021). Needs a server that returns log probabilities."""

    @model_validator(mode="after")
    def _check_prices(self) -> Self:
        if self.max_cost is not None and self.input_price == 0 and self.output_price == 0:
            raise ValueError("max_cost is given but no price: say what tokens cost with input_price and output_price")
        return self


class JudgeConfig(AskingConfig):
    """The language model that explains and judges, on any server with OpenAI's chat completions API."""

    judge_url: str = "http://localhost:8000/v1"
    """Address of the judge's API."""


class ScoringConfig(Config):
    """How features are scored, and the controls beside the scores."""

    interpretations: int = Field(default=1, ge=1)
    """Explanations per feature. The one that best fits the examples it was made from is tested."""
    random_features: int = Field(default=64, ge=0)
    """Control: number of sets of random tokens to explain and judge like features."""
    shuffled: int | None = Field(default=None, ge=0)
    """Control: number of features whose explanation is also judged on another feature's tokens. None: all."""
    max_features: int | None = Field(default=None, ge=1)
    """Score a random sample of this many active features; the table's column Act. still counts all. None: score all."""


class ComSemConfig(JudgeConfig):
    """Whose features to name and score, and how."""

    autoencoders: tuple[PlaceName, ...]
    """Folders of autoencoders, such as runs of a sweep; ids on the Hugging Face hub; or the word random: sets of random
    tokens, as a baseline."""
    store: str | None = None
    """Activation store of the evaluation set, extracted with --positions all. None: it is extracted as --evaluation
    says."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The evaluation set, if no store is given."""
    tokenizer: str | None = None
    """Folder or hub id of the store's tokenizer. None: that of the model that the store names."""
    other_model: bool = False
    """Allow autoencoders that were trained on another language model than the store's."""
    layer: int | None = Field(default=None, ge=0)
    """Layer of the autoencoders. None: the layer of their runs."""
    site: str | None = None
    """Site of the autoencoders. None: the site of their runs, else residual."""
    examples: ExamplesConfig = ExamplesConfig()
    """Which tokens are the examples of a feature."""
    scoring: ScoringConfig = ScoringConfig()
    """How features are scored."""
    workers: int = Field(default=1, ge=1)
    """Ray processes that collect examples; 1: this process collects them."""
    gpus_per_worker: float = Field(default=0, ge=0, le=1)
    """GPU share of each process, if there are several."""
