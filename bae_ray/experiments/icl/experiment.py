"""In-context learning: entropy and accuracy over the number of demonstrations (the paper's Fig. 4 and Fig. 7)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bae_ray.experiments.extractions import check_extract
from bae_ray.experiments.icl.config import PRESETS, ICLConfig
from bae_ray.experiments.protocol import Outcome

if TYPE_CHECKING:
    from bae_ray.experiments.per_input import Settings, Swept
    from bae_ray.report.results_writer import Results


class ICL:
    """Extract prompts for each k and way of choosing demonstrations; report the model's accuracy and the entropies.

    The model's answers come in the same pass as the activations.
    """

    job = "icl_entropy"
    presets = PRESETS

    def run(self, config: ICLConfig) -> "Outcome[dict[str, Swept]]":
        """Train the sweeps, by their folders' names. The accuracy is written before, since they take long."""
        from bae_ray.experiments.per_input import extract_each, sweep_each

        check_extract(config.extract, kind="icl")
        stores = extract_each(config.extract, settings(config), config.out / "stores")
        config.record()
        if config.only != "entropy":
            from bae_ray.experiments.icl.accuracy_report import accuracy_results
            from bae_ray.report.results_writer import write_results

            write_results(accuracy_results(list(stores.values())), config.out, config.resolved())
        if config.only == "accuracy":
            return Outcome(None, [])
        return sweep_each(config.sweep, stores, config.out / "sweeps")

    def results(self, config: ICLConfig, found: "dict[str, Swept]") -> "Sequence[Results]":
        """entropy.csv, .png and .html."""
        from bae_ray.experiments.icl.report import entropy_results

        return [entropy_results(found, settings(config))]


def settings(config: ICLConfig) -> "Settings":
    """The input of each store, by the name of its folder."""
    return {f"{way}-k{k}": {"demonstrations": way, "k": k} for way in config.demonstrations for k in config.ks}


EXPERIMENT = ICL()
