"""What tables of a sweep say where not all of it is done."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import BAEConfig
from bae_ray.cli.parsing import parse
from bae_ray.cli.verb_training import SweepCommand
from bae_ray.training.config import TrainingConfig
from bae_ray.training.continue_command import how_to_go_on, record_sweep
from bae_ray.training.results import results
from bae_ray.training.sweep import sweep
from bae_ray.training.sweep_config import SearchConfig, SweepConfig
from bae_ray.training.sweep_folder import GridRecord
from tests.recorded import made

GRID = SweepConfig(
    autoencoder=BAEConfig(expansion=1), training=TrainingConfig(epochs=2, batch_size=32), tensorboard=False
)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> SweepCommand:
    """What made a sweep of two runs, which is in its folder and did not converge."""
    folder = tmp_path_factory.mktemp("a sweep")
    store = made.store(folder / "store", (0, 1), (1,))
    sweep(GRID, ActivationStore.open(store), folder / "runs", "inline")
    made_by = SweepCommand(sweep=GRID, store=str(store), out=folder / "runs")
    (folder / "runs" / "sweep.json").write_text(made_by.record())
    return made_by


def test_tables_of_an_unfinished_sweep_say_so_at_their_end(bae_ray: Callable, command: SweepCommand, tmp_path: Path):
    runs, page = command.out, tmp_path / "report" / "report.html"
    verbs = (["entropy", "--runs", runs, "--out", tmp_path / "e.csv"], ["report", "--runs", runs, "--out", page.parent])
    record = (runs / "grid.json").read_text()
    for verb in verbs:
        code, printed, err = bae_ray(*verb)
        assert code == 0, err
        assert "runs are finished" not in printed
    GridRecord(runs=[*GridRecord.model_validate_json(record).runs, "unfinished"]).write(runs)
    for verb in verbs:
        assert bae_ray(*verb)[1].splitlines()[-1] == "2 of 3 runs are finished."
    assert '<p class="warning">2 of 3 runs are finished.</p>' in page.read_text()
    (runs / "grid.json").unlink()
    for verb in verbs:
        assert "runs are finished" not in bae_ray(*verb)[1]
    (runs / "grid.json").write_text(record)


def test_what_goes_on_with_unconverged_runs_is_a_command_that_runs_as_it_stands(
    bae_ray: Callable, command: SweepCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(command.out.parent)
    for verb in (["entropy", "--out", tmp_path / "e.csv"], ["report", "--out", tmp_path / "report"]):
        code, printed, err = bae_ray(*verb, "--runs", "runs")
        assert code == 0, err
        (line,) = (line for line in printed.splitlines() if "*  2 of 2 runs: did not converge" in line)
        _, _, typed = line.partition("; this goes on with them: ")
        name, sweeps, *options = shlex.split(typed)
        assert (Path(name).name, sweeps) == ("bae-ray", "sweep")
        found = parse(SweepCommand, "bae-ray sweep", options)
        assert (found.sweep, found.store, found.out) == (command.sweep, command.store, Path("runs"))
        assert found.continue_unconverged == 2, "as many epochs again"
    more = sweep(found.sweep, ActivationStore.open(found.store), found.out, "inline", found.continue_unconverged)
    assert more.trained == 2
    assert results(command.out)["epochs"].tolist() == [4, 4]


def test_where_store_or_settings_are_not_known_no_command_is_made_up(command: SweepCommand, tmp_path: Path):
    file, general = tmp_path / "sweep.json", "bae-ray sweep with the same --store, --out and settings"
    assert general in how_to_go_on(None)
    assert general in how_to_go_on(tmp_path)
    for record in ("{", "{}", command.record(store="gone")):
        file.write_text(record)
        assert general in how_to_go_on(tmp_path)
    search = SearchConfig(scheduler="asha")
    file.write_text(command.model_copy(update={"sweep": GRID.model_copy(update={"search": search})}).record())
    assert how_to_go_on(tmp_path) == "", "runs of a search do not go on"


def test_what_a_job_records_of_its_sweep_is_read_as_a_command(command: SweepCommand, tmp_path: Path):
    record_sweep(GRID, Path(command.store), tmp_path)
    found = parse(SweepCommand, "bae-ray sweep", ["--config", str(tmp_path / "sweep.json")])
    assert found == command.model_copy(update={"out": tmp_path})
    assert how_to_go_on(tmp_path).endswith("--continue-unconverged 2")
