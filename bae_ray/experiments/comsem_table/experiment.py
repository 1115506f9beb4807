"""Features of binary and sparse autoencoders named and scored by a judge (the paper's Table 1, Table 4, Fig. 24-28)."""

from pathlib import Path
from typing import TYPE_CHECKING

from bae_ray.activations.config import ExtractConfig
from bae_ray.comsem.config import ComSemConfig, JudgeConfig
from bae_ray.config import content_hash
from bae_ray.experiments.comsem_table.config import PRESETS, ComSemTableConfig
from bae_ray.experiments.extractions import check_swept, of_other_texts
from bae_ray.experiments.judged import COMSEM, check_judge, check_texts
from bae_ray.experiments.protocol import Outcome
from bae_ray.files import remove, write_text
from bae_ray.serving.judge.session import judge_of
from bae_ray.training.sweep_config import SweepConfig

if TYPE_CHECKING:
    from bae_ray.activations.store import ActivationStore
    from bae_ray.experiments.comsem_table.methods import TableMethod

FINISHED_FILE = "finished"
"""In the folder of ComSem: a hash of what the results are of, once none is missing."""


class ComSemTable:
    """Extract two corpora, train every method on the one, and have a judge score their features on the other."""

    job = "comsem_table"
    presets = PRESETS

    def planned(self, config: ComSemTableConfig) -> tuple[ExtractConfig, SweepConfig]:
        """What its plan is made of."""
        return config.extract, config.sweep

    def run(self, config: ComSemTableConfig) -> Outcome:
        """Make comsem.csv (Table 1), best.csv (Table 4), a picture of sorted scores per layer, and comsem.html."""
        from bae_ray.activations.extract import extract
        from bae_ray.experiments.comsem_table.comparison import compare
        from bae_ray.experiments.comsem_table.methods import random_method, table_methods
        from bae_ray.experiments.comsem_table.report import comsem_results
        from bae_ray.report.feature_browser import publish_cards, report_features
        from bae_ray.training.results import results
        from bae_ray.training.sweep import sweep

        check_texts(config.extract)
        check_swept(config.extract, config.sweep)
        check_judge(config)
        out = config.out
        train = extract(config.extract, out / "train")
        evaluation = extract(of_other_texts(config.extract, config.evaluation, None), out / "evaluation")
        config.record()
        outcome = sweep(config.sweep, train, out / "sweep")
        if not outcome.finished:
            return Outcome([], outcome.failures)
        methods = table_methods(out / "sweep", outcome.finished, config.rescaled, out / "autoencoders")
        folders = {method.name: Path(method.source) for method in methods}
        methods += [random_method()] if config.scoring.random_features else []
        failures = outcome.failures
        if failed := score(config, methods, evaluation):
            failures = [*failures, f"{failed} features have no score; the same command asks for them again."]
        comparison = compare(methods, results(out / "sweep", only=outcome.finished), out / COMSEM)
        pages = report_features(out / COMSEM)
        publish_cards(out / COMSEM, folders)
        return Outcome([comsem_results(comparison, pages)], failures)


def score(config: ComSemTableConfig, methods: "list[TableMethod]", evaluation: "ActivationStore") -> int:
    """Have the judge name and score the features of these methods; return how many have no answer.

    Where everything is finished, no judge is started.
    """
    from bae_ray.comsem.name_and_score import comsem, dry_run

    def asked(judge: JudgeConfig) -> ComSemConfig:
        return config.comsem(judge, [method.source for method in methods], evaluation.folder.location)

    folder, nobody = config.out / COMSEM, asked(config.judge.asking(config.judge.judge_url or ""))
    file, wanted = folder / FINISHED_FILE, contents(nobody, methods, evaluation)
    if file.exists() and file.read_text(encoding="utf-8") == wanted:
        return 0
    remove(file)
    dry_run(nobody, folder)  # finds the features first: a judge may take the GPU
    with judge_of(config.judge) as judge:
        outcome = comsem(asked(judge), folder)
    if not outcome.failed:
        write_text(file, wanted)
    return outcome.failed


def contents(asked: ComSemConfig, methods: "list[TableMethod]", evaluation: "ActivationStore") -> str:
    """A hash of everything that the scores depend on: settings, activations, weights and prompts."""
    from bae_ray.comsem.judge_prompts import PROMPT_VERSION

    data = [evaluation.fingerprint(cell) for cell in evaluation.cells]
    trained = [(method.run, method.weights) for method in methods]
    return content_hash([asked.model_dump(mode="json"), data, trained, PROMPT_VERSION])


EXPERIMENT = ComSemTable()
