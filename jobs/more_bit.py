"""More-bit decoding (the paper's Table 2), firing rates (Fig. 5, 39-41) and magnitude maps (Fig. 35-38).

Extracts the activations of two corpora (Ray Data), trains binary autoencoders with one to four bits per feature, and a
ReLU autoencoder beside them (Ray Tune), on one; on the other it counts how often each feature is active. Writes
more_bit.csv, more_bit.png, firing_rates.png, a magnitudes_layer*.png per layer and more_bit.html. On this machine, and
on a cluster:

    python jobs/more_bit.py cpu
    python jobs/more_bit.py cpu --judged
    RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/more_bit.py paper --out /shared/more_bit

The second has a judge name and score features of Table 2 (ComSem): one that the job starts itself, in vLLM on the same
Ray (`make judge` installs that), or the server at --judge.judge-url. Interrupted, the same command goes on where it
stopped, and no answer is asked for twice.
"""

import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from bae_ray.activations.config import CorpusConfig, ExtractConfig
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders.config import BAEConfig, ReLUConfig
from bae_ray.cli import parse_preset, report_failures, run_safely
from bae_ray.comsem.config import ComSemConfig, ExamplesConfig, JudgeConfig, ScoringConfig
from bae_ray.comsem.feature_records import FeatureRecords, read_feature_records
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.extractions import news, pile
from bae_ray.files import write_text
from bae_ray.serving.config import JudgeServiceConfig
from bae_ray.serving.judge.session import JobJudgeConfig, judge_of
from bae_ray.training.config import RunConfig, TrainingConfig
from bae_ray.training.grid import expand
from bae_ray.training.sweep_config import ExecutionConfig, SweepConfig

SWEEP = "sweep"
"""Folder of the autoencoders."""
COMSEM = "comsem"
"""Folder of what is found of their features, and of the judge's answers."""


class MoreBit(ExecutionConfig):
    """Binary autoencoders of several bits per feature, beside a sparse one."""

    out: Path
    """Folder of the whole run: train/, evaluation/, sweep/, comsem/, and the results."""
    extract: ExtractConfig
    """The activations to train on: position all; layers are those of the figures."""
    evaluation: CorpusConfig
    """The texts on which features are counted and judged; all else of them is as above."""
    layer: int = Field(ge=0)
    """Layer of Table 2, one of the above."""
    bits: tuple[Annotated[int, Field(ge=1, le=8)], ...] = (1, 2, 3, 4)
    """C: bits per feature of Table 2; 1 is always among them."""
    autoencoder: BAEConfig = BAEConfig()
    """Binary autoencoder of one bit; with C bits its expansion is C times that, so that there are as many features."""
    baseline: ReLUConfig = ReLUConfig()
    """Sparse autoencoder to compare with."""
    training: TrainingConfig
    """Training of all."""
    examples: ExamplesConfig = ExamplesConfig()
    """When a feature counts as activated, and what a judge sees of it."""
    scoring: ScoringConfig = ScoringConfig()
    """How features are scored, where a judge is asked."""
    judged: bool = False
    """Have a judge name and score the features of Table 2; otherwise they are counted only."""
    judge: JobJudgeConfig = JobJudgeConfig()
    """Which judge."""
    map_samples: int = Field(default=256, ge=2)
    """Tokens in a map of magnitudes, at most."""
    map_columns: int = Field(default=384, ge=2)
    """Its columns, at most."""


PRESETS = {
    # Sized for a laptop: half the paper's features per dimension, and 1,500 steps where the paper has 2.5 million, so
    # learning rate and entropy weight are larger. The covariance weight is the paper's: the penalty grows with the
    # square of C, and a weight of 1e-5, which makes the code of one bit sparse, leaves those of more bits with a larger
    # L_r. At this L1 weight the sparse autoencoder's held-out FVU is about that of such a sparse code.
    "cpu": MoreBit(
        out=Path("runs/more_bit"),
        extract=news((10, 20), vectors=16_384),
        evaluation=CorpusConfig(corpus="mr", max_texts=512),
        layer=10,
        autoencoder=BAEConfig(expansion=2),
        baseline=ReLUConfig(expansion=2),
        training=TrainingConfig(
            epochs=30, batch_size=256, lr=2e-3, lr_decay=0.5, entropy_weight=1e-4, l1_weight=1.5e-5
        ),
        packed=2,  # so that both cores are at work
        scoring=ScoringConfig(max_features=30, random_features=24, shuffled=10),
        judge=JobJudgeConfig(service=JudgeServiceConfig(name="smollm2-135m-instruct")),
    ),
    # Section 6, Appendices A.4 and G: Llama 3.2-1B, trained on the Pile, 8,192 sentences of BookCorpus.
    "paper": MoreBit(
        out=Path("runs/more_bit_paper"),
        extract=pile("meta-llama/Llama-3.2-1B", (5, 9, 11, 14)),
        evaluation=CorpusConfig(corpus="bookcorpus/bookcorpus", max_texts=8192),
        layer=11,
        training=TrainingConfig(epochs=200),
        gpus_per_trial=1,
        judge=JobJudgeConfig(
            # A GPU whether the cluster has one up by then or not.
            service=JudgeServiceConfig(model="Qwen/Qwen2.5-7B-Instruct", name="qwen2.5-7b-instruct", num_gpus=1)
        ),
    ),
}


def grid(job: MoreBit, store: ActivationStore) -> list[RunConfig]:
    """Every autoencoder of the table and the figures, each once."""
    bits = sorted({1, *job.bits})
    axis = {
        "autoencoder.bits_per_feature": bits,
        "autoencoder.expansion": [count * job.autoencoder.expansion for count in bits],
    }
    sweeps = [
        SweepConfig(layers=(job.layer,), autoencoder=job.autoencoder, training=job.training, axes=(axis,)),  # pyright: ignore[reportArgumentType] - becomes text
        SweepConfig(autoencoder=job.autoencoder, training=job.training),
        SweepConfig(autoencoder=job.baseline, training=job.training),
    ]
    runs = [run for sweep in sweeps for run in expand(sweep, store)]
    return list({run.id: run for run in runs}.values())


def check(job: MoreBit) -> None:
    """Raise `InvalidInputError` for what the job does not take, and `JudgeError` where the judge does not answer."""
    from bae_ray.comsem.name_and_score import check as check_judge
    from bae_ray.comsem.results_folder import CACHE_FILE
    from bae_ray.serving.judge.application import require_vllm

    extract = job.extract
    if extract.all_positions != ("all",):
        raise InvalidInputError(f"extract.positions is {extract.all_positions}: this job takes all.")
    if extract.input.kind != "texts":
        raise InvalidInputError(f"extract.input.kind is {extract.input.kind}: this job takes texts.")
    if extract.sites != ("residual",):
        raise InvalidInputError(f"extract.sites is {extract.sites}: this job takes residual.")
    if extract.layers is None or job.layer not in extract.layers:
        raise InvalidInputError(f"layer is {job.layer}, which is not among extract.layers {extract.layers}: name it.")
    for name, given in (("d_latent", job.autoencoder.d_latent), ("bits_per_feature", job.autoencoder.bits_per_feature)):
        if given not in (None, 1):
            raise InvalidInputError(
                f"autoencoder.{name} is {given}: leave it out; this job makes it of autoencoder.expansion and bits."
            )
    if job.judged and job.judge.judge_url is None:
        require_vllm()
    elif job.judged:  # its test is part of the results; one that does not answer is found out before hours of work
        check_judge(job.judge.asking(job.judge.judge_url or ""), job.judge.cache or job.out / COMSEM / CACHE_FILE)


def comsem_config(job: MoreBit, judge: JudgeConfig, runs: list[str]) -> ComSemConfig:
    """ComSem of these autoencoders on the evaluation set."""
    return ComSemConfig(
        **judge.model_dump(),
        autoencoders=tuple(str(job.out / SWEEP / run) for run in runs),
        store=str(job.out / "evaluation"),
        tokenizer=job.extract.model,  # of a local folder the store knows only the name
        examples=job.examples,
        scoring=job.scoring,
        workers=job.extract.workers or 1,
        gpus_per_worker=job.extract.gpus_per_worker or 0,
    )


def find_features(job: MoreBit, runs: list[str], of_table: list[str]) -> dict[str, FeatureRecords]:
    """What each autoencoder's features are on the evaluation set; prints what a judge would be asked, if none is."""
    from bae_ray.comsem.name_and_score import dry_run
    from bae_ray.report.comsem_terminal import print_plan

    nobody = job.judge.asking("")
    dry_run(comsem_config(job, nobody, runs), job.out / COMSEM)
    if not job.judged:
        print_plan(dry_run(comsem_config(job, nobody, of_table), job.out / COMSEM), nobody)
    return {run: read_feature_records(job.out / COMSEM / run) for run in runs}


def score(job: MoreBit, runs: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """ComSem's summary of these autoencoders, printed, with their features' pages; and what stays without an answer."""
    from bae_ray.comsem.name_and_score import comsem
    from bae_ray.report.comsem_terminal import print_summary
    from bae_ray.report.feature_browser import report_features

    with judge_of(job.judge) as judge:
        outcome = comsem(comsem_config(job, judge, runs), job.out / COMSEM)
    report_features(job.out / COMSEM)
    print_summary(outcome)
    failed = [f"{outcome.failed} features have no score; the same command asks for them again."]
    return outcome.summary, failed if outcome.failed else []


def run(job: MoreBit) -> int:
    """Run the job, or what is left of it."""
    from bae_ray.activations.extract import extract
    from bae_ray.experiments.more_bit.report import MoreBitReport
    from bae_ray.training.results import results
    from bae_ray.training.sweep import train_runs

    check(job)
    train = extract(job.extract, job.out / "train")
    tokens = job.extract.tokens.model_copy(update={"max_vectors": None})
    evaluation = extract(
        job.extract.model_copy(update={**dict(job.evaluation), "tokens": tokens}), job.out / "evaluation"
    )
    resolved = job.model_dump_json(indent=2) + "\n"
    write_text(job.out / "config.json", resolved)
    outcome = train_runs(grid(job, train), train, job.out / SWEEP, job)
    failures, scores = outcome.failures, None
    if outcome.finished:
        trained = results(job.out / SWEEP, only=outcome.finished)
        of_table = trained.loc[trained["layer"] == job.layer, "run"].tolist()
        found = find_features(job, trained["run"].tolist(), of_table)
        if job.judged and of_table:
            scores, unanswered = score(job, of_table)
            failures = [*failures, *unanswered]
        report = MoreBitReport(trained, job.out / SWEEP, evaluation, found, job.examples, scores, job.layer)
        report.write(job.out, resolved, job.map_samples, job.map_columns)
    return report_failures(failures)


if __name__ == "__main__":
    sys.exit(run_safely(lambda: run(parse_preset(PRESETS, "more_bit.py", sys.argv[1:], default="cpu"))))
