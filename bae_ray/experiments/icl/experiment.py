"""In-context learning: entropy and accuracy over the number of demonstrations (the paper's Fig. 4 and Fig. 7)."""

from bae_ray.experiments.extractions import check_extract, check_swept
from bae_ray.experiments.icl.config import PRESETS, ICLConfig
from bae_ray.experiments.protocol import Outcome


class ICL:
    """Extract prompts for each k and way of choosing demonstrations; report the model's accuracy and the entropies.

    The model's answers come in the same pass as the activations.
    """

    job = "icl_entropy"
    presets = PRESETS

    def run(self, config: ICLConfig) -> Outcome:
        """Make entropy.csv, .png and .html. Those of the accuracy are written before, since trainings take long."""
        from bae_ray.experiments.icl.accuracy_report import accuracy_results
        from bae_ray.experiments.icl.report import entropy_results
        from bae_ray.experiments.per_input import extract_each, sweep_each
        from bae_ray.report.results_writer import write_results

        check_extract(config.extract, kind="icl")
        check_swept(config.extract, config.sweep)
        settings = {f"{way}-k{k}": {"demonstrations": way, "k": k} for way in config.demonstrations for k in config.ks}
        stores = extract_each(config.extract, settings, config.out / "stores")
        config.record()
        if config.only != "entropy":
            write_results(accuracy_results(list(stores.values())), config.out, config.resolved())
        if config.only == "accuracy":
            return Outcome([], [])
        table, failures = sweep_each(config.sweep, settings, stores, config.out / "sweeps")
        return Outcome([] if table is None else [entropy_results(table)], failures)


EXPERIMENT = ICL()
