"""Features of binary and sparse autoencoders named and scored by a judge (the paper's Table 1, Table 4, Fig. 24-28).

Section 5.3, Appendices A.4 and C. Extracts activations of two corpora (Ray Data), trains every method at every layer on
the first (Ray Tune), and has a judge name and score their features on the second, which nothing was fitted on. Writes
comsem.csv (Table 1), best.csv (Table 4), a picture of the sorted scores per layer, comsem.html, and a browser of each
method's features. Without --judge.judge-url the job starts the judge itself, in vLLM on the same Ray (`make judge`
installs that). On this machine, and on a cluster:

    python jobs/comsem_table.py cpu
    python jobs/comsem_table.py cpu --judge.judge-url http://localhost:8000/v1 --judge.judge-model smollm2-135m
    RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/comsem_table.py paper --out /shared/comsem

Interrupted, the same command goes on where it stopped, and no answer is asked for twice.
"""

import sys
from pathlib import Path
from typing import Literal

from bae_ray.activations.config import CorpusConfig, ExtractConfig
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders.config import TopKConfig, TranscoderConfig
from bae_ray.cli import parse_preset, report_failures, run_safely
from bae_ray.comsem.config import RANDOM, ComSemConfig, ExamplesConfig, JudgeConfig, ScoringConfig
from bae_ray.comsem.methods import TableMethod
from bae_ray.config import Config, content_hash
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.extractions import news, pile
from bae_ray.files import write_text
from bae_ray.serving.config import JudgeServiceConfig
from bae_ray.serving.judge.session import JobJudgeConfig, judge_of
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig

COMSEM = "comsem"
"""Folder of what is found of the features, and of the judge's answers."""
FINISHED_FILE = "finished"
"""In there: a hash of what the results are of, once none is missing."""


class ComSemTable(Config):
    """Methods compared by how many features a judge can tell, and how well."""

    out: Path
    """Folder of the whole run: train/, evaluation/, sweep/, autoencoders/, comsem/, and the results."""
    extract: ExtractConfig
    """The activations to train on: position all."""
    evaluation: CorpusConfig
    """The sentences that features are told and judged by; all else of them is as above, every token of each."""
    sweep: SweepConfig
    """The autoencoders: architectures are an axis."""
    rescaled: tuple[Literal["relu", "topk", "gated", "gated_sae", "batchtopk", "jumprelu", "transcoder"], ...] = (
        "relu",
    )
    """Architectures that are a method a second time: the same weights, features selected by standardised latents (the
    paper's "ReLU SAE Resc.")."""
    examples: ExamplesConfig = ExamplesConfig()
    """Which tokens a feature is told by."""
    scoring: ScoringConfig = ScoringConfig()
    """How features are scored; random sets are a method of the table, too."""
    judge: JobJudgeConfig = JobJudgeConfig()
    """Who names and scores them."""


def _paper(out: str, model: str, layers: tuple[int, ...]) -> ComSemTable:
    """Appendix A.4 at these layers. Layer l's transcoder goes from the MLP before, of layer l - 1, to layer l."""
    before = tuple(layer - 1 for layer in layers)
    others = "relu,topk,gated,bae"
    return ComSemTable(
        out=Path(out),
        extract=pile(model, tuple(sorted({*layers, *before})), sites=("residual", "mlp_in")),
        evaluation=CorpusConfig(corpus="bookcorpus/bookcorpus", max_texts=8192),
        sweep=SweepConfig(
            autoencoder=TranscoderConfig(target_site="residual", target_layer_offset=1),
            training=TrainingConfig(epochs=200),
            axes=(f"autoencoder.architecture={others},transcoder",),
            exclude=(
                "site=residual autoencoder.architecture=transcoder",
                f"site=residual layer={','.join(map(str, before))}",
                f"site=mlp_in autoencoder.architecture={others}",
                f"site=mlp_in layer={','.join(map(str, layers))}",
            ),
            gpus_per_trial=1,
        ),
        scoring=ScoringConfig(random_features=512),
        judge=JobJudgeConfig(
            # A GPU whether the cluster has one up by then or not.
            service=JudgeServiceConfig(model="Qwen/Qwen2.5-7B-Instruct", name="qwen2.5-7b-instruct", num_gpus=1)
        ),
    )


PRESETS = {
    # Sized for a laptop: half the paper's latents per dimension, one layer (the deepest of every fifth before massive
    # activations set in), a sample of the features, and 2,000 steps where the paper has 2.5 million. The loss weights
    # are those at which all methods have about the same held-out FVU: that of top-k with the paper's k.
    "cpu": ComSemTable(
        out=Path("runs/comsem_table"),
        extract=news((10,), vectors=32_768),
        evaluation=CorpusConfig(corpus="mr", max_texts=512),
        sweep=SweepConfig(
            autoencoder=TopKConfig(expansion=2),
            training=TrainingConfig(
                epochs=20, batch_size=256, lr=2e-3, lr_decay=0.5, entropy_weight=1e-3, covariance_weight=1e-5
            ),
            axes=("autoencoder.architecture=relu,topk,gated,bae training.l1_weight=3e-5,0,1e-5,0",),
            packed=2,
        ),
        scoring=ScoringConfig(max_features=30, random_features=24, shuffled=10),
        # A judge that answers No to everything: calibrated, its decisions vary at least.
        judge=JobJudgeConfig(calibrated=True),
    ),
    # The paper's sizes (Appendix A.4); its judges are --judge.judge-url https://api.openai.com/v1 --judge.judge-model
    # gpt-4.1-mini, and gpt-4.1.
    "paper": _paper("runs/comsem_table_paper", "meta-llama/Llama-3.2-1B", (5, 9, 11, 14)),
    "paper_3b": _paper("runs/comsem_table_paper_3b", "meta-llama/Llama-3.2-3B", (20,)),
}  # fmt: skip


def check(job: ComSemTable) -> None:
    """Raise `InvalidInputError` for what the job does not take, and `JudgeError` where the judge does not answer."""
    from bae_ray.comsem.name_and_score import check as check_judge
    from bae_ray.comsem.results_folder import CACHE_FILE
    from bae_ray.serving.judge.application import require_vllm

    if job.extract.all_positions != ("all",):
        raise InvalidInputError(f"extract.positions is {job.extract.all_positions}: this job takes all.")
    if job.extract.input.kind != "texts":
        raise InvalidInputError(f"extract.input.kind is {job.extract.input.kind}: this job takes texts.")
    if job.judge.judge_url is None:
        require_vllm()
    else:  # its test is part of the results; one that does not answer is found out before hours of work
        check_judge(job.judge.asking(job.judge.judge_url), job.judge.cache or job.out / COMSEM / CACHE_FILE)


def score(job: ComSemTable, methods: list[TableMethod], store: ActivationStore) -> int:
    """Have the judge name and score the features of these methods; how many are left without an answer.

    Where that is finished already, no judge is started.
    """
    from bae_ray.comsem.judge_prompts import PROMPT_VERSION
    from bae_ray.comsem.name_and_score import comsem, dry_run

    def config(judge: JudgeConfig) -> ComSemConfig:
        return ComSemConfig(
            **judge.model_dump(),
            autoencoders=tuple(method.source for method in methods),
            store=str(store.folder),
            tokenizer=job.extract.model,  # of a local folder the store knows only the name
            examples=job.examples,
            scoring=job.scoring,
            workers=job.extract.workers or 1,
            gpus_per_worker=job.extract.gpus_per_worker or 0,
        )

    folder = job.out / COMSEM
    data = [store.fingerprint(cell) for cell in store.cells]
    asked = config(job.judge.asking(job.judge.judge_url or "")).model_dump(mode="json")
    if not asked["reasoning"]:
        del asked["reasoning"]  # later than the first results
    wanted = content_hash([asked, data, [(method.run, method.weights) for method in methods], PROMPT_VERSION])
    file = folder / FINISHED_FILE
    if file.exists() and file.read_text(encoding="utf-8") == wanted:
        return 0
    file.unlink(missing_ok=True)
    dry_run(config(job.judge.asking(job.judge.judge_url or "")), folder)  # examples first: a judge may take the GPU
    with judge_of(job.judge) as judge:
        outcome = comsem(config(judge), folder)
    if not outcome.failed:
        write_text(file, wanted)
    return outcome.failed


def run(job: ComSemTable) -> int:
    """Run the job, or what is left of it."""
    from bae_ray.activations.extract import extract
    from bae_ray.comsem.comparison import compare
    from bae_ray.comsem.methods import random_method, table_methods
    from bae_ray.experiments.comsem_table.report import report_comsem_table
    from bae_ray.report.card_file import publish_cards
    from bae_ray.report.feature_browser import report_features
    from bae_ray.training.results import results
    from bae_ray.training.sweep import sweep

    check(job)
    train = extract(job.extract, job.out / "train")
    tokens = job.extract.tokens.model_copy(update={"max_vectors": None})
    evaluation = job.extract.model_copy(update={**dict(job.evaluation), "tokens": tokens})
    store = extract(evaluation, job.out / "evaluation")
    resolved = job.model_dump_json(indent=2) + "\n"
    write_text(job.out / "config.json", resolved)
    outcome = sweep(job.sweep, train, job.out / "sweep")
    failures = outcome.failures
    if outcome.finished:
        methods = table_methods(job.out / "sweep", outcome.finished, job.rescaled, job.out / "autoencoders")
        methods += [random_method()] if job.scoring.random_features else []
        if failed := score(job, methods, store):
            failures = [*failures, f"{failed} features have no score; the same command asks for them again."]
        runs = results(job.out / "sweep", only=outcome.finished)
        comparison = compare(methods, runs, job.out / COMSEM)
        pages = report_features(job.out / COMSEM)
        publish_cards(
            job.out / COMSEM, {m.name: job.out / "autoencoders" / m.name for m in methods if m.source != RANDOM}
        )
        for path in report_comsem_table(comparison, pages, job.out, resolved):
            print(path)
    return report_failures(failures)


if __name__ == "__main__":
    sys.exit(run_safely(lambda: run(parse_preset(PRESETS, "comsem_table.py", sys.argv[1:], default="cpu"))))
