"""Scores of features: by the words of their examples, by a judge, or as ComSem left them in a folder."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from bae_ray.activations.model import find_model, load_tokenizer
from bae_ray.analysis.feature_clusters import Ints
from bae_ray.comsem.config import ComSemConfig, ExamplesConfig, JudgeConfig, ScoringConfig
from bae_ray.comsem.summary import COUNTED, FEATURES_FILE, SUMMARY_FILE
from bae_ray.config import content_hash
from bae_ray.experiments.feature_shape.config import FeatureShapeConfig
from bae_ray.experiments.feature_shape.selected_tokens import Selected, Subject, Tokens
from bae_ray.experiments.judged import COMSEM
from bae_ray.files import read_text, remove, write_text
from bae_ray.report.numbers import known
from bae_ray.serving.judge.session import judge_of

COLUMNS = ["feature", "score", "chance", "explanation"]
FINISHED_FILE = "finished"
"""In the folder of ComSem: a hash of what its scores are of, once none is missing."""
BY_WORDS = (
    "No judge was asked: a feature's explanation is the words of its first {n_interpret} examples, and its score the "
    "share of up to {n_test} further ones whose word is among them. So it tells features of words, and no others"
)

CAVEAT = " (of scores by words, and tokens of one word lie together whatever a feature does)"


class Scores(NamedTuple):
    """Scores of some features."""

    table: pd.DataFrame
    """A row per feature with the columns `COLUMNS`; chance, on another feature's examples, is NaN where not known."""
    how: str
    """Who scored, and how far that can be trusted."""
    caveat: str = ""
    """What a trend with these scores does not say; stands beside each verdict."""
    useless: bool = False
    """A judge's that failed its own test: nothing can be told by them."""


def word_scores(selected: Selected, words: list[str], examples: ExamplesConfig, scoring: ScoringConfig) -> Scores:
    """Scores by words: ComSem (Algorithm 1) where a word fits an explanation by being in it.

    `words` are those of the tokens, in order. A random sample of the active features is scored where
    `scoring.max_features` says so.
    """
    generator = np.random.default_rng([examples.seed, 1])
    active = np.flatnonzero(selected.counts >= examples.n_interpret + 1)
    if scoring.max_features is not None and scoring.max_features < len(active):
        active = np.sort(generator.choice(active, scoring.max_features, replace=False))
    enough = examples.n_interpret + examples.n_test
    shown = [[words[token] for token in selected.of(feature)[:enough]] for feature in active]
    told = [set(some[: examples.n_interpret]) for some in shown]
    tested = [some[examples.n_interpret :] for some in shown]
    order = generator.permutation(len(active))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    rows = [
        {
            "feature": int(feature),
            "score": _share(told[i], tested[i]),
            "chance": _share(told[i], tested[other[i]]) if other[i] != i else np.nan,
            "explanation": ", ".join(sorted(told[i])),
        }
        for i, feature in enumerate(active)
    ]
    how = BY_WORDS.format(n_interpret=examples.n_interpret, n_test=examples.n_test)
    return Scores(pd.DataFrame(rows, columns=COLUMNS), how, CAVEAT)


def _share(told: set[str], tested: list[str]) -> float:
    return float(np.mean([word in told for word in tested]))


def words_of(ids: Ints, model: str) -> list[str]:
    """The word of each token: its text without blanks, in small letters; of a token of blanks all of it."""
    tokenizer = load_tokenizer(find_model(model))
    texts = {int(one): str(tokenizer.decode([int(one)])) for one in np.unique(ids)}
    words = {one: text.strip().lower() or text for one, text in texts.items()}
    return [words[int(one)] for one in ids]


def scores_of(
    config: FeatureShapeConfig, subject: Subject, selected: Selected, tokens: Tokens
) -> tuple[Scores, list[str]]:
    """The scores that the config asks for, and a line for what has no answer."""
    if config.scored is not None:
        return read_scores(config.scored), []
    if config.scores == "tokens":
        return word_scores(selected, words_of(tokens.ids, subject.model), config.examples, config.scoring), []
    failures = _have_judged(config, subject)
    return read_scores(config.out / COMSEM / subject.method.name), failures


def read_scores(folder: Path) -> Scores:
    """The scores that ComSem left in the folder of a method."""
    table = pd.read_parquet(folder / FEATURES_FILE)
    counted = table[table["status"].isin(COUNTED)].dropna(subset=["score"])
    judge = json.loads(read_text(folder.parent / SUMMARY_FILE))["judge"]
    accuracy, low, high = (known(judge[name], ".2f") for name in ("balanced_accuracy", "accuracy_low", "accuracy_high"))
    how = (
        f"Scored by ComSem with the judge {judge['model']}, whose balanced accuracy is {accuracy} [{low}, {high}] on "
        f"{judge['pairs']} labelled pairs, where guessing has .5"
    )
    return Scores(counted[COLUMNS].reset_index(drop=True), how, useless=bool(judge["useless"]))


def _have_judged(config: FeatureShapeConfig, subject: Subject) -> list[str]:
    """Have the judge score the features. Where all are scored, no judge is started."""
    from bae_ray.comsem.judge_prompts import PROMPT_VERSION
    from bae_ray.comsem.name_and_score import comsem, dry_run
    from bae_ray.report.feature_browser import report_features

    def asked(judge: JudgeConfig) -> ComSemConfig:
        return config.comsem(judge, [subject.method.source], subject.store.folder.location)

    folder, nobody = config.out / COMSEM, asked(config.judge.asking(config.judge.judge_url or ""))
    file = folder / FINISHED_FILE
    wanted = content_hash([nobody.model_dump(mode="json"), subject.identity(), PROMPT_VERSION])
    if file.exists() and read_text(file) == wanted:
        return []
    remove(file)
    dry_run(nobody, folder)  # finds the features first: a judge may take the GPU
    with judge_of(config.judge) as judge:
        outcome = comsem(asked(judge), folder)
    report_features(folder)
    if outcome.failed:
        return [f"{outcome.failed} features have no score; the same command asks for them again."]
    write_text(file, wanted)
    return []
