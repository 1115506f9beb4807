"""More-bit decoding (the paper's Table 2), firing rates (Fig. 5, 39-41) and magnitude maps (Fig. 35-38)."""

from typing import TYPE_CHECKING

from bae_ray.errors import InvalidInputError
from bae_ray.experiments.extractions import check_extract, of_other_texts
from bae_ray.experiments.judged import COMSEM, check_judge, check_texts
from bae_ray.experiments.more_bit.config import PRESETS, MoreBitConfig
from bae_ray.experiments.protocol import Outcome
from bae_ray.serving.judge.session import judge_of
from bae_ray.training.config import RunConfig
from bae_ray.training.sweep_config import SweepConfig

if TYPE_CHECKING:
    import pandas as pd

    from bae_ray.activations.store import ActivationStore
    from bae_ray.comsem.feature_records import FeatureRecords

SWEEP = "sweep"
"""Folder of the autoencoders."""
EVALUATION = "evaluation"
"""Folder of the store that features are found on."""
ANY_WIDTH = 512
"""The model's is not known yet, and what is refused does not depend on it."""


class MoreBit:
    """Extract two corpora, train on the one, and count features on the other; a judge may name and score them, too."""

    job = "more_bit"
    presets = PRESETS

    def run(self, config: MoreBitConfig) -> Outcome:
        """Make more_bit.csv, .png and .html, firing_rates.png, and magnitudes_layer{l}.png of each layer."""
        from bae_ray.activations.extract import extract
        from bae_ray.experiments.more_bit.measurements import measure
        from bae_ray.experiments.more_bit.report import more_bit_results
        from bae_ray.training.results import results
        from bae_ray.training.sweep import train_runs

        check(config)
        train = extract(config.extract, config.out / "train")
        evaluation = extract(of_other_texts(config.extract, config.evaluation, None), config.out / EVALUATION)
        config.record()
        outcome = train_runs(grid(config, train), train, config.out / SWEEP, config)
        if not outcome.finished:
            return Outcome([], outcome.failures)
        trained = results(config.out / SWEEP, only=outcome.finished)
        of_table = trained.loc[trained["layer"] == config.layer, "run"].tolist()
        found = find_features(config, trained["run"].tolist(), of_table)
        scores, unanswered = score(config, of_table) if config.judged and of_table else (None, [])
        measured = measure(config, config.out / SWEEP, trained, evaluation, found, scores)
        return Outcome([more_bit_results(config, measured)], [*outcome.failures, *unanswered])


def grid(config: MoreBitConfig, store: "ActivationStore") -> list[RunConfig]:
    """Every autoencoder of the table and the figures, each once."""
    from bae_ray.training.grid import expand
    from bae_ray.training.recipe import scaled

    bits = sorted({1, *config.bits})
    axis = {
        "autoencoder.bits_per_feature": bits,
        "autoencoder.expansion": [count * config.autoencoder.expansion for count in bits],
    }
    sweeps = [
        SweepConfig(layers=(config.layer,), autoencoder=config.autoencoder, training=config.training, axes=(axis,)),  # pyright: ignore[reportArgumentType] - becomes text
        SweepConfig(autoencoder=config.autoencoder, training=config.training),
        SweepConfig(autoencoder=config.baseline, training=config.training),
        *(
            SweepConfig(autoencoder=config.autoencoder, training=scaled(config.training, weight))
            for weight in config.scaled_entropy_weights
        ),
    ]
    runs = [run for sweep in sweeps for run in expand(sweep, store)]
    return list({run.id: run for run in runs}.values())


def check(config: MoreBitConfig) -> None:
    """Raise `InvalidInputError` for a config that is not accepted, and `JudgeError` where the judge does not answer."""
    extract, autoencoder = config.extract, config.autoencoder
    check_texts(extract)
    check_extract(extract, sites="residual")
    if extract.layers is None or config.layer not in extract.layers:
        raise InvalidInputError(
            f"layer is {config.layer}, which is not among extract.layers {extract.layers}: add it there."
        )
    for name, given in (("d_latent", autoencoder.d_latent), ("bits_per_feature", autoencoder.bits_per_feature)):
        if given not in (None, 1):
            raise InvalidInputError(
                f"autoencoder.{name} is {given}: leave it out; it follows from autoencoder.expansion and bits."
            )
    _check_recipe(config)
    if config.judged:
        check_judge(config)


def _check_recipe(config: MoreBitConfig) -> None:
    """Raise `InvalidInputError`, before the extraction, for what does not go with the recipe `scaled`."""
    from bae_ray.training.recipe import resolved, scaled

    if config.training.recipe != "paper":
        raise InvalidInputError(
            f"training.recipe is {config.training.recipe}, which is only for one-bit binary autoencoders, but "
            "`training` holds for all autoencoders. Leave it out, and name scaled_entropy_weights."
        )
    for weight in config.scaled_entropy_weights:
        resolved(scaled(config.training, weight), config.autoencoder, ANY_WIDTH)


def find_features(config: MoreBitConfig, runs: list[str], of_table: list[str]) -> "dict[str, FeatureRecords]":
    """Find each autoencoder's features on the evaluation set; without a judge, print what one would be asked."""
    from bae_ray.comsem.feature_records import read_feature_records
    from bae_ray.comsem.name_and_score import dry_run
    from bae_ray.report.comsem_terminal import print_cost

    nobody, folder, store = config.judge.asking(""), config.out / COMSEM, str(config.out / EVALUATION)
    dry_run(config.comsem(nobody, _folders(config, runs), store), folder)
    if not config.judged:
        print_cost(dry_run(config.comsem(nobody, _folders(config, of_table), store), folder), nobody)
    return {run: read_feature_records(folder / run) for run in runs}


def score(config: MoreBitConfig, runs: list[str]) -> "tuple[pd.DataFrame, list[str]]":
    """ComSem's summary of these autoencoders, which is printed, and a line where features stay without an answer."""
    from bae_ray.comsem.name_and_score import comsem
    from bae_ray.report.comsem_terminal import print_summary
    from bae_ray.report.feature_browser import report_features

    with judge_of(config.judge) as judge:
        asked = config.comsem(judge, _folders(config, runs), str(config.out / EVALUATION))
        outcome = comsem(asked, config.out / COMSEM)
    report_features(config.out / COMSEM)
    print_summary(outcome)
    failed = [f"{outcome.failed} features have no score; the same command asks for them again."]
    return outcome.summary, failed if outcome.failed else []


def _folders(config: MoreBitConfig, runs: list[str]) -> list[str]:
    return [str(config.out / SWEEP / run) for run in runs]


EXPERIMENT = MoreBit()
