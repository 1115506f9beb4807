"""What experiments share whose features a judge names and scores."""

from bae_ray.activations.config import CorpusConfig, ExtractConfig
from bae_ray.comsem.config import ComSemConfig, ExamplesConfig, JudgeConfig, ScoringConfig
from bae_ray.experiments.extractions import check_extract
from bae_ray.experiments.protocol import ExperimentConfig
from bae_ray.serving.config import JudgeServiceConfig
from bae_ray.serving.judge.session import JobJudgeConfig

PAPER_JUDGE = JobJudgeConfig(
    # A GPU whether the cluster has one up by then or not.
    service=JudgeServiceConfig(model="Qwen/Qwen2.5-7B-Instruct", name="qwen2.5-7b-instruct", num_gpus=1)
)
"""The judge of the paper's sizes."""
SAMPLE = {"max_features": 100, "random_features": 100, "shuffled": 50}
"""Of the paper's scoring on one GPU: a sample of the features."""
COMSEM = "comsem"
"""Folder of what is found of the features, and of the judge's answers."""


class JudgedConfig(ExperimentConfig):
    """An experiment that trains on one corpus, and finds and scores features on another."""

    extract: ExtractConfig
    """The activations to train on: position all."""
    evaluation: CorpusConfig
    """The texts on which features are found and judged, every token of each. Model, layers and the rest are those of
    --extract."""
    examples: ExamplesConfig = ExamplesConfig()
    """When a feature counts as active, and what a judge sees of it."""
    scoring: ScoringConfig = ScoringConfig()
    """How features are scored."""
    judge: JobJudgeConfig = JobJudgeConfig()
    """Who names and scores them."""

    def comsem(self, judge: JudgeConfig, autoencoders: list[str], store: str) -> ComSemConfig:
        """ComSem of these autoencoders on the evaluation store, by this judge."""
        return ComSemConfig(
            **judge.model_dump(),
            autoencoders=tuple(autoencoders),
            store=store,
            tokenizer=self.extract.model,  # of a local folder the store knows only the name
            examples=self.examples,
            scoring=self.scoring,
            workers=self.extract.workers or 1,
            gpus_per_worker=self.extract.gpus_per_worker or 0,
        )


def check_texts(extract: ExtractConfig) -> None:
    """Raise `InvalidInputError` where the extraction is not of every token of texts."""
    check_extract(extract, positions="all", kind="texts")


def check_judge(config: JudgedConfig) -> None:
    """Raise `JudgeError` where the judge does not answer, and `InvalidInputError` where it cannot be started.

    The judge's own test is part of the results. It comes first, so that hours of work are not lost to a judge that is
    not there.
    """
    from bae_ray.comsem.name_and_score import check
    from bae_ray.comsem.summary import CACHE_FILE
    from bae_ray.serving.judge.application import require_vllm

    judge = config.judge
    if judge.judge_url is None:
        require_vllm()
    else:
        check(judge.asking(judge.judge_url), judge.cache or config.out / COMSEM / CACHE_FILE)
