"""Fidelity of a sweep's runs, against plain hooks on a transformers model; what is finished is never done again."""

import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import Autoencoder, load_autoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.fidelity.config import FidelityConfig
from bae_ray.fidelity.measure_fidelity import FOLDER, Measured, measure_fidelity
from bae_ray.fidelity.subjects import subjects_of, targets_of
from bae_ray.fidelity.units import MeasureUnit, plan_units
from bae_ray.fidelity.worker import FidelityWorker, UnitOutcome
from bae_ray.seeds import stream
from bae_ray.training.config import RunConfig
from bae_ray.training.results import results
from bae_ray.training.run_fidelity import FIDELITY_FILE
from tests.fidelity.naive import KINDS, NaiveFidelity


def measured(store: Path, runs: Path, model: Path | None, **fields: Any) -> Measured:
    opened = ActivationStore.open(store)
    name = None if model is None else str(model)
    config = FidelityConfig(model=name, gpus_per_worker=0, **{"batch_tokens": 60, **fields})
    return measure_fidelity(config, opened, targets_of([runs], opened), runs, executor="inline")


@pytest.fixture(scope="module")
def found(causal_store: Path, runs: Path, tiny_causal_model: Path) -> Measured:
    return measured(causal_store, runs, tiny_causal_model)


def split_of(folder: Path, n: int) -> tuple[list[int], list[int]]:
    """Rows that a run was trained on, and the others, drawn as the documentation says."""
    training = RunConfig.model_validate_json((folder / "run.json").read_text()).training
    order = torch.randperm(n, generator=stream(training.seed, "split")).tolist()
    n_held_out = round(n * training.val_fraction)
    return sorted(order[n_held_out:]), sorted(order[:n_held_out])


def test_numbers_are_those_of_plain_hooks(
    found: Measured, causal_store: Path, runs: Path, tiny_causal_model: Path, tiny_texts: list[str]
):
    store, oracle = ActivationStore.open(causal_store), NaiveFidelity(tiny_causal_model)
    assert found.failures == []
    assert len(found.records) == 5
    text_ids = store.texts["text_id"].tolist()
    for name, record in found.records.items():
        train, held_out = split_of(runs / name, store.manifest.n)
        expected = oracle.of(runs / name, store, {i: tiny_texts[text_ids[i]] for i in held_out}, train)
        columns = record.columns.model_dump()
        assert (columns["fidelity_texts"], columns["fidelity_tokens"]) == (expected["texts"], expected["tokens"])
        for kind in KINDS:
            assert columns[f"ce_{kind}"] == pytest.approx(expected[kind], abs=2e-5), (name, kind)
        assert columns["kl"] == pytest.approx(expected["kl"], abs=1e-5)
        assert columns["top1_agreement"] == pytest.approx(expected["agree"], abs=1e-6)
        for against, column in (("zero", "ce_recovered"), ("mean", "ce_recovered_mean")):
            cost = expected[against] - expected["clean"]
            recovered = (expected[against] - expected["spliced"]) / cost
            assert columns[column] == pytest.approx(recovered, abs=1e-4 / abs(cost))


def test_positions_add_up_to_the_whole(found: Measured):
    for record in found.records.values():
        columns = record.columns
        assert sum(part["tokens"] for part in record.by_position) == columns.fidelity_tokens
        assert [part["first"] for part in record.by_position] == [0, 1, 3, 7, 15][: len(record.by_position)]
        for name in ("kl", "jsd", "top1_agreement", "ce_clean", "ce_spliced", "ce_mean", "ce_zero"):
            total = sum(part[name] * part["tokens"] for part in record.by_position)
            assert total / columns.fidelity_tokens == pytest.approx(getattr(columns, name)), name


def test_intervals_are_around_the_numbers(found: Measured):
    for record in found.records.values():
        for name in ("kl", "jsd", "top1_agreement", "ce_recovered", "ce_recovered_mean"):
            low, value, high = (getattr(record.columns, name + end) for end in ("_low", "", "_high"))
            assert low <= value <= high, name
        assert record.columns.jsd <= math.log(2)


def test_results_have_the_columns(found: Measured, runs: Path):
    for row in results(runs).to_dict("records"):
        assert row["kl"] == found.records[row["run"]].columns.kl


def counting(monkeypatch: pytest.MonkeyPatch) -> list[MeasureUnit]:
    """The units that are measured from now on."""
    units: list[MeasureUnit] = []
    call = FidelityWorker.__call__

    def counted(self: FidelityWorker, unit: MeasureUnit) -> UnitOutcome:
        units.append(unit)
        return call(self, unit)

    monkeypatch.setattr(FidelityWorker, "__call__", counted)
    return units


def test_finished_runs_are_only_read(
    found: Measured, causal_store: Path, runs: Path, tiny_causal_model: Path, monkeypatch: pytest.MonkeyPatch
):
    units = counting(monkeypatch)
    assert measured(causal_store, runs, tiny_causal_model) == found
    assert units == []


def test_an_interrupted_call_goes_on_with_what_is_missing(
    found: Measured, causal_store: Path, runs: Path, tiny_causal_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """No run has its record yet, and one unit's file is not there: only that one is measured."""
    copy = shutil.copytree(runs, tmp_path / "runs")
    (folder,) = (copy / FOLDER).iterdir()
    file = sorted(folder.glob("*.parquet"))[0]
    lost = set(pd.read_parquet(file)[["subject", "text"]].itertuples(index=False, name=None))
    file.unlink()
    for record in copy.glob(f"*/{FIDELITY_FILE}"):
        record.unlink()
    units = counting(monkeypatch)
    again = measured(causal_store, copy, tiny_causal_model)
    assert {(subject.name, text) for unit in units for subject in unit.subjects for text in unit.texts} == lost
    for name, record in found.records.items():
        for column, value in record.columns.model_dump().items():
            assert getattr(again.records[name].columns, column) == pytest.approx(value, rel=1e-5, abs=1e-6), column


def test_a_damaged_file_of_a_unit_is_measured_again(
    found: Measured, causal_store: Path, runs: Path, tiny_causal_model: Path, tmp_path: Path
):
    copy = shutil.copytree(runs, tmp_path / "runs")
    (folder,) = (copy / FOLDER).iterdir()
    sorted(folder.glob("*.parquet"))[0].write_bytes(b"damaged")
    for record in copy.glob(f"*/{FIDELITY_FILE}"):
        record.unlink()
    again = measured(causal_store, copy, tiny_causal_model)
    assert again.failures == []
    assert set(again.records) == set(found.records)


def test_a_damaged_run_is_named_and_the_others_are_measured(
    causal_store: Path, runs: Path, tiny_causal_model: Path, tmp_path: Path
):
    copy = shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns(FOLDER, FIDELITY_FILE))
    broken = sorted(path.parent.name for path in copy.glob("*/result.json"))[0]
    (copy / broken / "model.safetensors").write_bytes(b"damaged")
    found = measured(causal_store, copy, tiny_causal_model)
    assert len(found.records) == 4
    (failure,) = found.failures
    assert failure.startswith(broken)
    assert "cannot be loaded as an autoencoder" in failure


def test_an_error_that_nobody_foresaw_is_told_and_the_others_are_measured(
    causal_store: Path, runs: Path, tiny_causal_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
):  # fmt: skip
    copy = shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns(FOLDER, FIDELITY_FILE))
    odd = sorted(path.parent.name for path in copy.glob("*/result.json"))[1]

    def load(folder: Path) -> Autoencoder:
        if folder.name == odd:
            raise RuntimeError("the disk is odd")
        return load_autoencoder(folder)

    monkeypatch.setattr("bae_ray.fidelity.measurer.load_autoencoder", load)
    found = measured(causal_store, copy, tiny_causal_model)
    assert len(found.records) == 4
    (failure,) = found.failures
    assert failure.startswith(odd)
    assert "RuntimeError: the disk is odd" in failure
    assert "Traceback (most recent call last)" in capfd.readouterr().err


def test_other_weights_in_the_same_folder_are_measured_anew(
    found: Measured, causal_store: Path, runs: Path, tiny_causal_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    copy = shutil.copytree(runs, tmp_path / "runs")
    changed = sorted(found.records)[0]
    autoencoder = load_autoencoder(copy / changed)
    with torch.no_grad():
        autoencoder.b_dec.add_(1.0)
    autoencoder.save_pretrained(copy / changed)
    units = counting(monkeypatch)
    again = measured(causal_store, copy, tiny_causal_model)
    assert {subject.of.name for unit in units for subject in unit.subjects} == {changed}
    assert {subject.kind for unit in units for subject in unit.subjects} == {"run"}, "the controls are as they were"
    assert again.records[changed].columns.kl != found.records[changed].columns.kl
    assert all(again.records[name] == record for name, record in found.records.items() if name != changed)


def test_runs_of_one_cell_share_their_controls(causal_store: Path, runs: Path, tmp_path: Path):
    """Each control is measured once, however many runs it stands beside."""
    store = ActivationStore.open(causal_store)
    for number in range(3):
        for run in runs.glob("*/result.json"):
            shutil.copytree(run.parent, tmp_path / "runs" / f"{run.parent.name}-{number}")
            autoencoder = load_autoencoder(run.parent)
            with torch.no_grad():
                autoencoder.b_dec.add_(number)
            autoencoder.save_pretrained(tmp_path / "runs" / f"{run.parent.name}-{number}")
    targets = targets_of([tmp_path / "runs"], store)
    assert len(targets) == 15
    units = plan_units([one for target in targets for one in subjects_of(target, (0, 1))], [9, 8], set())
    names = [subject.name for unit in units for subject in unit.subjects]
    assert len(names) == len(set(names)) == 15 + 2 * 5


def test_other_settings_are_measured_anew(
    found: Measured, causal_store: Path, runs: Path, tiny_causal_model: Path, tmp_path: Path
):
    copy = shutil.copytree(runs, tmp_path / "runs")
    fewer = measured(causal_store, copy, tiny_causal_model, max_texts=10)
    assert {record.columns.fidelity_texts for record in fewer.records.values()} == {10}
    assert all(fewer.records[name].columns.kl != record.columns.kl for name, record in found.records.items())


def test_another_model_is_refused_by_name(causal_store: Path, runs: Path, tiny_model: Path):
    with pytest.raises(InvalidInputError, match=r"are of the model 'model' \(whose files .* Name the folder or hub id"):
        measured(causal_store, runs, tiny_model)


@pytest.mark.slow  # the hub is asked for the name, which takes half a minute where it cannot be reached
def test_a_model_that_is_not_found_by_its_name_is_to_be_named(causal_store: Path, runs: Path):
    with pytest.raises(InvalidInputError, match=r"not found by that name here\. Name its folder or hub id with --mod"):
        measured(causal_store, runs, None)


def test_texts_that_are_too_short_are_told(causal_store: Path, runs: Path, tiny_causal_model: Path):
    with pytest.raises(InvalidInputError, match="none has a next token after position 5 within 4 tokens"):
        measured(causal_store, runs, tiny_causal_model, max_tokens=4)


def test_runs_of_another_store_are_refused(causal_store: Path, runs: Path, tiny_store: Path):
    with pytest.raises(InvalidInputError, match=r"holds no cell|was trained on other activations"):
        targets_of([runs], ActivationStore.open(tiny_store))
    with pytest.raises(InvalidInputError, match="holds no finished run"):
        targets_of([causal_store], ActivationStore.open(causal_store))
