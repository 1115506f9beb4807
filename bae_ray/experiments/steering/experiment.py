"""Steering by features that stand for demonstrations (the paper's Fig. 6, section 5.4), beside controls."""

from pathlib import Path
from typing import TYPE_CHECKING

from bae_ray.activations.config import ExtractConfig
from bae_ray.experiments.protocol import Outcome
from bae_ray.experiments.steering.config import PRESETS, SteeringConfig
from bae_ray.training.config import RunConfig
from bae_ray.training.sweep_config import SweepConfig

if TYPE_CHECKING:
    from bae_ray.activations.store import ActivationStore
    from bae_ray.experiments.steering.preparation import Prepared
    from bae_ray.experiments.steering.steering_units import Trained
    from bae_ray.experiments.steering.steering_worker import Asked


class Steering:
    """Train autoencoders, make vectors of prompts with and without demonstrations, and steer other prompts by them."""

    job = "steering"
    presets = PRESETS

    def planned(self, config: SteeringConfig) -> tuple[ExtractConfig, SweepConfig]:
        """What its plan is made of."""
        return config.extract, seeded(config)

    def run(self, config: SteeringConfig) -> Outcome:
        """Make steering.csv, three pictures and steering.html."""
        from bae_ray.activations.extract import extract
        from bae_ray.experiments.steering.preparation import prepare
        from bae_ray.experiments.steering.report import steering_results
        from bae_ray.experiments.steering.steering_files import measure_units
        from bae_ray.experiments.steering.steering_summary import references
        from bae_ray.experiments.steering.steering_units import units_of
        from bae_ray.experiments.steering.steering_worker import Order
        from bae_ray.training.sweep import sweep
        from bae_ray.work.executors import data_executor

        prepared = prepare(config)
        train = extract(config.extract, config.out / "train")
        config.record()
        asked = {seed: calibrate(config, prepared, seed) for seed in config.seeds}
        outcome = sweep(seeded(config), train, config.out / "sweep")
        trained = finished_runs(config.out / "sweep", outcome.finished)
        extraction = config.extract
        order = Order(
            prepared.source, extraction.dtype, prepared.site, prepared.labels, prepared.neutral, asked,
            config.out.absolute() / "sweep", config.out.absolute() / "steering", config.prompts_at_once,
            extraction.attempts,
        )  # fmt: skip
        measured = measure_units(
            list(units_of(config, prepared.layers, trained)), order, config.out, data_executor("ray"),
            extraction.cpus_per_worker, extraction.gpus_per_worker, extraction.workers,
        )  # fmt: skip
        failures = [*outcome.failures, *measured.failures]
        if measured.table is None:
            return Outcome([], failures)
        return Outcome([steering_results(config, measured.table, references(config, prepared, asked))], failures)


def seeded(config: SteeringConfig) -> SweepConfig:
    """The sweep, with the experiment's seeds."""
    return config.sweep.model_copy(update={"seeds": config.seeds})


def grid(config: SteeringConfig, store: "ActivationStore") -> list[RunConfig]:
    """Every autoencoder of the experiment."""
    from bae_ray.training.grid import expand

    return expand(seeded(config), store)


def calibrate(config: SteeringConfig, prepared: "Prepared", seed: int) -> "Asked":
    """Extract a seed's prompts with demonstrations and without, of the same queries; none of what it steers."""
    from bae_ray.activations.config import CorpusConfig
    from bae_ray.activations.extract import extract
    from bae_ray.experiments.steering.calibration import used, write_pool
    from bae_ray.experiments.steering.preparation import prompts_of
    from bae_ray.experiments.steering.steering_worker import Asked

    test, folder = prepared.tests[seed], config.out.absolute() / "calibration" / f"seed{seed}"
    pool = CorpusConfig(corpus=str(write_pool(prepared.examples, test.split, folder)), max_texts=config.calibration)
    form = prepared.examples.format
    stores: list[Path] = []
    for k in (config.input.k, 0):
        given = config.input.model_copy(update={**form._asdict(), "k": k, "seed": seed, "label_column": "label"})
        extraction = prompts_of(config, pool, prepared.layers).model_copy(update={"input": given})
        used(extract(extraction, folder / f"shots{k}"), test.split)
        stores.append(folder / f"shots{k}")
    return Asked(test.prompts, test.answers, stores[0], stores[1])


def finished_runs(sweep: Path, runs: list[str]) -> "dict[tuple[str, int, int], Trained]":
    """Finished runs by architecture, layer and seed."""
    from bae_ray.autoencoders.architectures import find_architecture
    from bae_ray.autoencoders.checkpoint import WEIGHTS_FILE
    from bae_ray.experiments.steering.steering_units import Trained
    from bae_ray.files import checksum, read_text
    from bae_ray.training.run_folder import RUN_FILE

    found: dict[tuple[str, int, int], Trained] = {}
    for run in runs:
        config = RunConfig.model_validate_json(read_text(sweep / run / RUN_FILE))
        architecture = find_architecture(config.autoencoder.name)
        key = architecture.name, config.cell.layer, config.training.seed
        found[key] = Trained(*key, run, checksum(sweep / run / WEIGHTS_FILE), architecture.is_binary)
    return found


EXPERIMENT = Steering()
