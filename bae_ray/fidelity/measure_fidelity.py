"""The fidelity of runs: what a language model still predicts with their reconstructions in place of its activations.

fidelity/HASH/*.parquet below the (first) folder of runs keeps what is measured, unit by unit; fidelity.json beside each
run has its numbers. The same command goes on from there, and measures nothing twice.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bae_ray.activations.layout import rows_file
from bae_ray.activations.model import ModelSource, load_tokenizer
from bae_ray.activations.store import ActivationStore
from bae_ray.config import content_hash
from bae_ray.errors import InvalidInputError
from bae_ray.fidelity.config import FidelityConfig
from bae_ray.fidelity.held_out_texts import Texts, chosen, held_out_of, not_among, read_texts
from bae_ray.fidelity.spliced_batch import Given
from bae_ray.fidelity.store_model import model_of, named, same_model
from bae_ray.fidelity.subjects import Subject, Target, subjects_of
from bae_ray.fidelity.text_bootstrap import RunRows, by_position, summarize
from bae_ray.fidelity.units import MeasureUnit, plan_units, read_units
from bae_ray.fidelity.worker import FidelityWorker, UnitOutcome
from bae_ray.files import write_text
from bae_ray.progress import console, track
from bae_ray.storage import folder_at
from bae_ray.training.run_fidelity import FIDELITY_FILE, FidelityRecord
from bae_ray.work.attempts import Attempts
from bae_ray.work.executor import Executor, WorkOrder
from bae_ray.work.executors import ExecutorName, data_executor
from bae_ray.work.receipts import read_receipt

FOLDER = "fidelity"
VERSION = 2
"""Version of the measures: if it changes, everything is measured anew."""


class Measured(NamedTuple):
    """What was measured."""

    records: dict[str, FidelityRecord]
    """By name of the autoencoder."""
    failures: list[str]
    """A line for each autoencoder that could not be measured."""


def measure_fidelity(
    config: FidelityConfig,
    store: ActivationStore,
    targets: Sequence[Target],
    work: Path,
    held_out: ActivationStore | None = None,
    executor: Executor | ExecutorName = "ray",
) -> Measured:
    """Measure autoencoders on held-out texts and write fidelity.json beside each. Finished measures are only read.

    Texts are those of `store` that an autoencoder was not trained on, or all of `held_out` that are not among those of
    `store`. `work` is the folder of what is measured, unit by unit. Raises `InvalidInputError` before any model is
    loaded, if the model is not that of the stores, and if no text is held out or long enough.
    """
    source = model_of(store, config.model)
    if source.max_positions is not None:
        config = config.model_copy(update={"max_tokens": min(config.max_tokens, source.max_positions)})
    texts, candidates = _texts(store, held_out, source)
    request = _request(config, store, held_out)
    folder = work / FOLDER / content_hash(request)
    unfinished = [target for target in targets if _finished(target, request) is None]
    waiting = {target: _subjects(config, store, target, texts, candidates) for target in unfinished}
    failures: dict[str, str] = {}
    if waiting:
        kept = store.manifest.request.tokens or {}
        kept = {name: bool(kept.get(name, True)) for name in ("first", "special")}
        given = Given(config, source, store.folder, texts, kept)
        subjects = [subject for some in waiting.values() for subject in some]
        failures = _measure(given, subjects, folder, data_executor(executor))
        _summarize(config, waiting, folder, request, failures)
    records = {target.name: record for target in targets if (record := _finished(target, request)) is not None}
    return Measured(records, [f"{target.name} ({target.cell}): {_reason(target, failures)}" for target in targets
                              if target.name not in records])  # fmt: skip


def _texts(
    store: ActivationStore, held_out: ActivationStore | None, source: ModelSource
) -> tuple[Texts, np.ndarray | None]:
    """The texts to measure on; which of them may be, or None: those that a run was not trained on."""
    tokenizer = load_tokenizer(source)
    if held_out is None:
        return read_texts(store, tokenizer), None
    of, wanted = (one.manifest.request.model for one in (held_out, store))
    if not same_model(of, wanted):
        raise InvalidInputError(
            f"the texts of {held_out.folder} were tokenised for the model {named(of)}, those of {store.folder} for "
            f"{named(wanted)}. Extract them with the same model."
        )
    texts = read_texts(held_out, tokenizer)
    candidates = not_among(texts, read_texts(store, tokenizer))
    if not len(candidates):
        raise InvalidInputError(
            f"all texts of {held_out.folder} are in {store.folder}, too, so none is held out. Extract other ones."
        )
    return texts, candidates


def _subjects(
    config: FidelityConfig, store: ActivationStore, target: Target, texts: Texts, candidates: np.ndarray | None
) -> list[Subject]:
    if candidates is None:
        if target.trained is None:
            raise InvalidInputError(
                f"{target.folder} does not say which texts it was trained on. Name a store of others with --held-out."
            )
        candidates = held_out_of(store, target.trained)
    some = chosen(candidates, texts, target.cell.position, config.max_tokens, config.max_texts, config.seed)
    return subjects_of(target, some)


def _request(config: FidelityConfig, store: ActivationStore, held_out: ActivationStore | None) -> dict[str, Any]:
    """All that the numbers of a run depend on but the run."""
    settings = config.model_dump(
        include={"max_texts", "max_tokens", "dtype", "batch_tokens", "seed", "resamples"}, mode="json"
    )
    stores = {"store": store, **({"held_out": held_out} if held_out else {})}
    rows = {
        name: content_hash([shard.files[rows_file(shard.shard)].checksum for shard in one.manifest.shards])
        for name, one in stores.items()
    }
    model = {**store.manifest.request.model, "name": ""}
    return {"version": VERSION, "model": content_hash(model), **rows, **settings}


def _finished(target: Target, request: dict[str, Any]) -> FidelityRecord | None:
    record = read_receipt(folder_at(target.folder), FIDELITY_FILE, FidelityRecord)
    return record if record is not None and record.request == {**request, "of": target.identity} else None


def _measure(given: Given, subjects: Sequence[Subject], folder: Path, executor: Executor) -> dict[str, str]:
    """Measure what is missing; why subjects could not be measured."""
    lengths = [min(len(ids), given.config.max_tokens) for ids in given.texts.token_ids]
    done = set(read_units(folder)[["subject", "text"]].itertuples(index=False, name=None))
    units = plan_units(subjects, lengths, done)
    total = sum(len(texts) for texts in {subject.name: subject.texts for subject in subjects}.values())
    failures: dict[str, str] = {}
    config = given.config
    share = executor.share("a worker", config.cpus_per_worker, config.gpus_per_worker)
    with track("Splicing", total) as tracker:
        tracker.advance(total - sum(unit.size for unit in units))

        def told(unit: MeasureUnit, outcome: UnitOutcome) -> None:
            failures.update(outcome.failures)
            if outcome.tracebacks:
                console.print(outcome.tracebacks, markup=False)
            tracker.advance(unit.size)

        if units:
            folder.mkdir(parents=True, exist_ok=True)
            Attempts(folder_at(folder), config.attempts).forget()
            workers = min(config.workers or executor.fitting(share), len(units))
            worker = partial(FidelityWorker, given=given, folder=folder.absolute(), attempts=config.attempts)
            executor.run(WorkOrder([[unit] for unit in units], worker, told, share, workers))
            Attempts(folder_at(folder), config.attempts).forget()
    return failures


def _summarize(
    config: FidelityConfig,
    waiting: dict[Target, list[Subject]],
    folder: Path,
    request: dict[str, Any],
    failures: dict[str, str],
) -> None:
    """Write the numbers of those that are measured on all of their texts."""
    groups = {str(name): table for name, table in read_units(folder).groupby("subject")}
    for target, subjects in waiting.items():
        tables = {subject.kind: groups.get(subject.name) for subject in subjects}
        rows = {kind: table[table["text"].isin(subjects[0].texts)] for kind, table in tables.items()
                if table is not None}  # fmt: skip
        if len(rows) < len(subjects) or any(
            table["text"].nunique() < len(subjects[0].texts) for table in rows.values()
        ):
            failures.setdefault(target.subject, next((failures[s.name] for s in subjects if s.name in failures), ""))
            continue
        found = RunRows(**rows)
        record = FidelityRecord(
            request={**request, "of": target.identity},
            columns=summarize(found, config.resamples, config.seed),
            by_position=by_position(found),
        )
        write_text(target.folder / FIDELITY_FILE, record.to_json())


def _reason(target: Target, failures: dict[str, str]) -> str:
    return failures.get(target.subject) or "it was not reached; the same command goes on"
