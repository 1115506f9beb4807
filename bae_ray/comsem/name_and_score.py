"""A whole run of ComSem (Algorithm 1): collects examples, has features explained and judged, and writes the results."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.model import find_model, load_tokenizer
from bae_ray.activations.store import ActivationStore
from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.comsem.config import RANDOM, ComSemConfig, JudgeConfig
from bae_ray.comsem.evaluation import Method, check_k, check_model, find_methods, runner
from bae_ray.comsem.examples import random_sets
from bae_ray.comsem.feature_collection import EvaluationSet, collect_records
from bae_ray.comsem.feature_records import FeatureRecords
from bae_ray.comsem.judge import REFUSED_AT_FIRST, Judge
from bae_ray.comsem.judge_check import JudgeCheck, check_judge, check_prompts
from bae_ray.comsem.judge_prompts import PROMPT_VERSION
from bae_ray.comsem.scoring import FeatureScore, Task, score_features, unasked
from bae_ray.comsem.sentences import Sentences
from bae_ray.comsem.summary import (
    CACHE_FILE,
    CONFIG_FILE,
    FEATURES_FILE,
    RANDOM_FILE,
    STORE_FOLDER,
    SUMMARY_FILE,
    TABLE_FILE,
    USAGE_FILE,
    Outcome,
    flat,
    summarize,
    table,
    without_nan,
)
from bae_ray.comsem.tasks import Plan, active_features, feature_tasks, plan, random_tasks
from bae_ray.comsem.usage import Usage
from bae_ray.errors import InvalidInputError, RefusedRequestError, UnansweredError
from bae_ray.files import atomic_path, remove, write_text
from bae_ray.progress import track
from bae_ray.working_copies import reading, working

JUDGE_MEASURES = ("accuracy_low", "accuracy_high", "yes_bias", "self_agreement", "useless")
"""Of the judge's own test, in each method's row beside its accuracy."""


class _Prepared(NamedTuple):
    method: Method
    records: FeatureRecords
    tasks: list[Task]
    random: list[Task]


def comsem(config: ComSemConfig, out: str | Path, record: str | None = None) -> Outcome:
    """Name and score features; killed at any point, the same call goes on and pays for no answer twice.

    Raises an `InvalidInputError` before long work starts, and `JudgeError` where the judge cannot be asked any more;
    what was answered by then is kept. `record`: the text of the config's file, if it is to hold more than the config,
    such as all options of a command. `out`: a path, or a URI such as s3://bucket/folder.
    """
    record = record or config.model_dump_json(indent=2) + "\n"
    with working(out, "ComSem") as folder:
        return _comsem(config, folder, record)


def _comsem(config: ComSemConfig, out: Path, record: str) -> Outcome:
    with AnswerCache(config.cache or out / CACHE_FILE) as cache:  # first: another process may be at work in this folder
        first: list[Usage] = []
        prepared = _prepare(config, out, lambda: first.append(_before_long_work(config, cache, out, record)))
        check, usage, scores = asyncio.run(_ask(config, cache, prepared))
        usage = usage.after(first[0])
    rows = [
        _write(one, real, random, config, check, out / one.method.name)
        for one, (real, random) in zip(prepared, scores, strict=True)
    ]
    summary = pd.DataFrame(rows)
    _write_summary(summary, check, usage, config, out)
    problems = [f"{one.method.name}: {e}" for one, both in zip(prepared, scores, strict=True) if (e := _problem(both))]
    return Outcome(summary, check, usage, tuple(problems), int(summary["failed"].sum()) + check.failed)


def dry_run(config: ComSemConfig, out: Path) -> Plan:
    """The requests and the cost of such a run. Collects and keeps the examples, and sends no request."""
    tasks = [task for one in _prepare(config, reading(out)) for task in (*one.tasks, *one.random)]
    return plan(tasks, config.scoring.interpretations, config)


def check(config: JudgeConfig, cache: Path) -> tuple[JudgeCheck, Usage]:
    """Only test the judge (`bae-ray judge check`)."""

    async def run(opened: AnswerCache) -> tuple[JudgeCheck, Usage]:
        with track("Judge check", len(check_prompts())) as tracker:
            async with Judge(config, opened) as judge:
                checked, _ = await check_judge(judge, config.calibrated, tracker.advance)
                return checked, judge.usage

    with AnswerCache(cache) as opened:
        return asyncio.run(run(opened))


def _before_long_work(config: ComSemConfig, cache: AnswerCache, out: Path, record: str) -> Usage:
    usage = asyncio.run(_first_question(config, cache))
    _write_config(config, out, record)  # only now: where this run cannot begin, the results of an earlier one stay
    return usage


async def _first_question(config: ComSemConfig, cache: AnswerCache) -> Usage:
    """Raise `JudgeError` where the judge will not answer: no server, a wrong key, or all questions rejected."""
    async with Judge(config, cache) as judge:
        for prompt in check_prompts()[:REFUSED_AT_FIRST]:
            try:
                await judge.decide(prompt)
                break
            except RefusedRequestError:
                continue
            except UnansweredError:  # may pass; without any answer the run ends later
                break
        return judge.usage


def _problem(scores: tuple[list[FeatureScore], list[FeatureScore]]) -> str:
    """An example of what went wrong, preferably of a failed feature."""
    found = [score for score in (*scores[0], *scores[1]) if score.error]
    found.sort(key=lambda score: score.status != "failed")
    return f"feature {found[0].feature} {found[0].status}: {found[0].error}" if found else ""


def _prepare(config: ComSemConfig, out: Path, before_long_work: Callable[[], object] = lambda: None) -> list[_Prepared]:
    methods = find_methods(config)
    check_k(methods, config.examples.k)
    store = _store(config, methods, out, before_long_work)
    for method in methods:
        if method.source != RANDOM:
            store.fingerprint(method.cell)  # raises for a missing cell
    source = find_model(config.tokenizer or _model_of(config, store))
    sentences = Sentences(store, load_tokenizer(source))
    if config.store is not None:  # else it was done before the extraction
        before_long_work()
    n_tokens = min(store.manifest.n, config.examples.max_tokens or store.manifest.n)
    run = runner(store, n_tokens, config.workers, config.gpus_per_worker)
    evaluation = EvaluationSet(store, sentences, n_tokens, run, source)
    prepared: list[_Prepared] = []
    with track("Examples", len(methods)) as tracker:
        for method in methods:
            n_random = config.scoring.random_features
            if method.source == RANDOM and n_random == 0:
                raise InvalidInputError("random is to be scored, but scoring.random_features is 0: say how many sets.")
            records = collect_records(method, evaluation, config.examples, n_random, out / method.name)
            tasks = feature_tasks(records.kept, sentences, config.examples, config.scoring)
            sets = random_sets(n_tokens, 0 if method.source == RANDOM else n_random, config.examples)
            prepared.append(_Prepared(method, records, tasks, random_tasks(sets, sentences, config.examples, 0)))
            tracker.advance()
    return prepared


def _write_config(config: ComSemConfig, out: Path, record: str) -> None:
    """Write the config. Removes the summary of another config."""
    file = out / CONFIG_FILE
    if file.exists() and not _is_of(config, file.read_text(encoding="utf-8")):
        for name in (SUMMARY_FILE, TABLE_FILE):
            remove(out / name)
    write_text(file, record)


def _is_of(config: ComSemConfig, text: str) -> bool:
    """Whether a file's text is of this config. An earlier version's lacks fields, whose defaults are what it did.

    What else the file holds, such as whether the cards are published, changes no score.
    """
    try:
        written = {name: value for name, value in json.loads(text).items() if name in type(config).model_fields}
        return type(config).model_validate_json(json.dumps(written)) == config
    except ValueError:  # no JSON, or no such config
        return False


def _store(
    config: ComSemConfig, methods: list[Method], out: Path, before_long_work: Callable[[], object]
) -> ActivationStore:
    """The evaluation set, extracted where no store is given. Checks that it is of the methods' language model."""
    given = None if config.store is None else ActivationStore.open(config.store)
    if not config.other_model:
        check_model(methods, find_model(config.evaluation.model).name if given is None else _model_of(config, given))
    if given is not None:
        return given
    from bae_ray.activations.extract import extract

    wanted = config.evaluation
    scored = [method.cell for method in methods if method.source != RANDOM] or [method.cell for method in methods]
    extraction = ExtractConfig(
        **wanted.model_dump(exclude={"sentences", "sentence_tokens"}),
        max_texts=wanted.sentences,
        max_tokens=wanted.sentence_tokens,
        positions=("all",),
        layers=tuple(sorted({cell.layer for cell in scored})),
        sites=tuple(sorted({cell.site for cell in scored})),  # pyright: ignore[reportArgumentType] - checked there
    )
    before_long_work()
    return extract(extraction, out / STORE_FOLDER)


def _model_of(config: ComSemConfig, store: ActivationStore) -> str:
    return config.evaluation.model if config.store is None else str(store.manifest.request.model["name"])


async def _ask(
    config: ComSemConfig, cache: AnswerCache, prepared: list[_Prepared]
) -> tuple[JudgeCheck, Usage, list[tuple[list[FeatureScore], list[FeatureScore]]]]:
    async with Judge(config, cache) as judge:
        with track("Judge check", len(check_prompts())) as tracker:
            checked, threshold = await check_judge(judge, config.calibrated, tracker.advance)
        for warning in checked.warnings:  # before the features are asked about and paid for
            print(f"WARNING: {warning}.", file=sys.stderr)

        async def score(tasks: list[Task], on_done: Callable[[], None]) -> list[FeatureScore]:
            return await score_features(
                judge, tasks, config.scoring.interpretations, threshold, config.in_flight, on_done
            )

        scores: list[tuple[list[FeatureScore], list[FeatureScore]]] = []
        with track("Features", sum(len(one.tasks) + len(one.random) for one in prepared)) as tracker:
            for one in prepared:
                real = await score(one.tasks, tracker.advance)
                scores.append((real, await score(one.random, tracker.advance)))
        return checked, judge.usage, scores


def _write(
    one: _Prepared, real: list[FeatureScore], random: list[FeatureScore], config: ComSemConfig, check: JudgeCheck,
    folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Write a method's tables; gives its row of the summary."""
    features = _all_features(one.records, real, config)
    controls = table(random)
    for frame, name in ((features, FEATURES_FILE), (controls, RANDOM_FILE)):
        with atomic_path(folder / name) as temporary:
            frame.to_parquet(temporary, index=False)
    return {
        "method": one.method.name,
        **one.records.evaluation.model_dump(exclude={"identity"}),
        **flat(summarize(features, controls, config.examples.seed)),
        "judge": config.judge_model,
        "judge_accuracy": check.balanced_accuracy,
        **{f"judge_{name}": getattr(check, name) for name in JUDGE_MEASURES},
    }


def _all_features(records: FeatureRecords, scored: list[FeatureScore], config: ComSemConfig) -> pd.DataFrame:
    """A row for every feature, in order. The status says why a feature has no score."""
    active = set(active_features(records.kept, config.examples))
    known = {score.feature: score for score in scored}
    features = records.features
    every = [
        known.get(feature) or unasked(feature, "unscored" if feature in active else "inactive")
        for feature in features["feature"].tolist()
    ]
    features.insert(1, "active", features["feature"].isin(active))
    return pd.concat([features, table(every).drop(columns="feature")], axis=1)


def _write_summary(summary: pd.DataFrame, check: JudgeCheck, usage: Usage, config: ComSemConfig, out: Path) -> None:
    with atomic_path(out / TABLE_FILE) as temporary:
        summary.to_csv(temporary, index=False)
    record = {
        "prompt_version": PROMPT_VERSION,
        "judge": {"url": config.judge_url, "model": config.judge_model, **check._asdict()},
        "methods": json.loads(summary.to_json(orient="records")),
    }
    write_text(out / USAGE_FILE, json.dumps(usage._asdict(), indent=2) + "\n")
    write_text(out / SUMMARY_FILE, json.dumps(without_nan(record), indent=2) + "\n")
