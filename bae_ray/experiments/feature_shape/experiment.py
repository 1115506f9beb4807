"""Whether features of a high score cluster more than those of a low one (the paper's Fig. 42 and 43, Appendix F.3)."""

import sys
from typing import TYPE_CHECKING

from bae_ray.errors import InvalidInputError
from bae_ray.experiments.extractions import check_extract, of_other_texts
from bae_ray.experiments.feature_shape.config import PRESETS, FeatureShapeConfig
from bae_ray.experiments.feature_shape.plane import MISSING, has_umap
from bae_ray.experiments.judged import check_judge, check_texts
from bae_ray.experiments.protocol import Outcome
from bae_ray.training.config import RunConfig
from bae_ray.training.sweep_config import SweepConfig

if TYPE_CHECKING:
    from bae_ray.activations.store import ActivationStore
    from bae_ray.experiments.feature_shape.selected_tokens import Subject

SWEEP = "sweep"
"""Folder of the autoencoder."""


class FeatureShape:
    """Train, find and score features, or take scored ones; measure how their tokens lie, and draw some of them."""

    job = "feature_shape"
    presets = PRESETS

    def run(self, config: FeatureShapeConfig) -> Outcome:
        """Make feature_shape.csv, shape_by_score.csv, feature_shape.png and .html, and umap.png of some features."""
        from bae_ray.experiments.feature_shape.feature_scores import scores_of
        from bae_ray.experiments.feature_shape.report import feature_shape_results
        from bae_ray.experiments.feature_shape.score_comparison import feature_table, features_shown
        from bae_ray.experiments.feature_shape.selected_tokens import Directions, Pools, Tokens, select_tokens
        from bae_ray.experiments.feature_shape.shape_files import measure_features, planes_of

        check(config)
        if not has_umap():
            print(f"WARNING: {MISSING}.", file=sys.stderr)
        subject, failures = scored_subject(config) if config.scored is not None else trained_subject(config)
        if subject is None:
            return Outcome([], failures)
        selected, tokens = select_tokens(subject, config.out), Tokens.of(subject.store, subject.n_tokens)
        scores, unanswered = scores_of(config, subject, selected, tokens)
        given = list(config.features or ())
        pools = Pools(subject, tokens, selected, Directions.of(subject.method.source))
        measured = measure_features(config, pools, sorted({*scores.table["feature"].tolist(), *given}))
        failures += unanswered
        failures += [
            f"feature {feature} is active on {selected.counts[feature]} tokens after the first of a text, too few to "
            "be measured: give another one."
            for feature in given
            if feature not in measured
        ]
        table = feature_table(scores.table, measured, selected.counts)
        table["shown"] = features_shown(table, config.features, config.shown)
        chosen = table.loc[table["shown"] != "", "feature"].tolist()
        planes = planes_of(config, pools, chosen) if has_umap() else {}
        return Outcome([feature_shape_results(config, subject, scores, table, planes)], failures)


def check(config: FeatureShapeConfig) -> None:
    """Raise `InvalidInputError` for a config that is not accepted, and `JudgeError` where the judge does not answer."""
    from bae_ray.experiments.feature_shape.scored_folder import check_features, check_scored

    if config.scored is not None:
        check_scored(config.scored, config.features)
        return
    extract = config.extract
    check_texts(extract)
    check_extract(extract, sites="residual")
    if extract.layers is None or len(extract.layers) != 1:
        raise InvalidInputError(f"extract.layers is {extract.layers}: name one layer, such as --extract.layers 10.")
    if config.autoencoder.bits_per_feature != 1:
        raise InvalidInputError(
            f"autoencoder.bits_per_feature is {config.autoencoder.bits_per_feature}: leave it out; this job "
            "measures features by the burstiness of single bits."
        )
    if config.features is not None:
        from bae_ray.activations.model import find_model

        width = find_model(extract.model, extract.revision).hidden_size
        check_features(config.features, config.autoencoder.model_copy(update={"d_in": width}).n_features)
    if config.scores == "judge":
        check_judge(config)


def grid(config: FeatureShapeConfig, store: "ActivationStore") -> list[RunConfig]:
    """The autoencoder's run."""
    from bae_ray.training.grid import expand

    return expand(SweepConfig(autoencoder=config.autoencoder, training=config.training), store)


def trained_subject(config: FeatureShapeConfig) -> "tuple[Subject | None, list[str]]":
    """Extract both corpora and train the autoencoder; None where that fails, with the reason."""
    from bae_ray.activations.extract import extract
    from bae_ray.activations.layout import Cell
    from bae_ray.comsem.evaluation import Method
    from bae_ray.experiments.feature_shape.selected_tokens import Subject
    from bae_ray.training.sweep import train_runs

    train = extract(config.extract, config.out / "train")
    evaluation = extract(of_other_texts(config.extract, config.evaluation, None), config.out / "evaluation")
    config.record()
    (run,) = grid(config, train)
    outcome = train_runs([run], train, config.out / SWEEP, config)
    if not outcome.finished:
        return None, outcome.failures
    method = Method(run.id, str(config.out / SWEEP / run.id), Cell(run.cell.layer, run.cell.site, run.cell.position))
    return Subject(method, evaluation, config.examples, config.extract.model), outcome.failures


def scored_subject(config: FeatureShapeConfig) -> "tuple[Subject | None, list[str]]":
    """What ComSem scored in the folder that is given."""
    from bae_ray.experiments.feature_shape.scored_folder import open_scored

    assert config.scored is not None
    subject = open_scored(config.scored)
    config.record()
    return subject, []


EXPERIMENT = FeatureShape()
