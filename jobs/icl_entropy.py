"""In-context learning: entropy and accuracy over the number of demonstrations (the paper's Fig. 4 and Fig. 7).

Section 4.3 and Appendix A.3. Extracts the last token's activations of in-context-learning prompts for each k, with
demonstrations sampled for each query and, beside them, fixed as in the released code; the model's answers come in the
same pass. Writes accuracy.csv, accuracy.png and accuracy.html (Fig. 7); then trains a binary autoencoder for each k and
layer and writes entropy.csv, entropy.png and entropy.html (Fig. 4). On this machine, and on a cluster:

    python jobs/icl_entropy.py cpu --out runs/icl
    python jobs/icl_entropy.py cpu --only accuracy --out runs/icl
    RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/icl_entropy.py paper --out /shared/icl

Interrupted, the same command goes on where it stopped.
"""

import sys
from pathlib import Path
from typing import Literal

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.inputs import ICLInput
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.cli import parse_preset, report_failures, run_safely
from bae_ray.config import Config
from bae_ray.errors import InvalidInputError
from bae_ray.files import write_text
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig


class ICLEntropy(Config):
    """In-context-learning prompts over the number of demonstrations."""

    out: Path
    """Folder of the whole run: a store and a sweep per k and way of choosing demonstrations, and the results."""
    only: Literal["accuracy", "entropy"] | None = None
    """What of it: accuracy, the model's answers over k (Fig. 7); entropy, by layer and k (Fig. 4). Left out: both."""
    ks: tuple[int, ...] = (0, 1, 2, 4, 8)
    """Numbers of demonstrations."""
    demonstrations: tuple[Literal["sampled", "fixed"], ...] = ("sampled", "fixed")
    """Ways of choosing them."""
    extract: ExtractConfig
    """The activations; input.k and input.demonstrations are taken from the two above."""
    sweep: SweepConfig
    """The autoencoders."""


PRESETS = {
    # Sized for a laptop. 60 epochs of few steps in place of the paper's 2,000 of 410, so the loss weights are larger.
    "cpu": ICLEntropy(
        out=Path("runs/icl"),
        extract=ExtractConfig(
            corpus="sst2",
            input=ICLInput(),
            layers=(0, 5, 10, 15, 20, 25, 30),
            positions=("last",),
            max_texts=256,
            batch_size=16,
            shard_size=64,
        ),
        sweep=SweepConfig(
            layers=(5, 10, 20, 30),  # at 0 the last token's embedding is the same for all prompts
            autoencoder=BAEConfig(expansion=2),
            training=TrainingConfig(epochs=100, batch_size=256, lr=3e-3, entropy_weight=2e-3, covariance_weight=1e-5),
            seeds=(0, 1),
        ),
    ),
    # The paper's size (section 4.3, Appendix A.3).
    "paper": ICLEntropy(
        out=Path("runs/icl_paper"),
        extract=ExtractConfig(
            model="meta-llama/Llama-3.2-1B",
            corpus="sst2",
            input=ICLInput(),
            layers=(0, 2, 4, 6, 8, 10, 12, 14, 16),
            positions=("last",),
            max_texts=262_144,
            dtype="bfloat16",
            batch_size=256,
            batch_tokens=65_536,
            shard_size=4096,
            workers=8,
            gpus_per_worker=1,
        ),
        sweep=SweepConfig(
            layers=(2, 4, 6, 8, 10, 12, 14, 16),
            autoencoder=BAEConfig(expansion=4),
            training=TrainingConfig(),
            gpus_per_trial=0.25,
        ),
    ),
}


def run(job: ICLEntropy) -> int:
    """Run the job, or what is left of it."""
    from bae_ray.activations.extract import extract
    from bae_ray.experiments.icl.report import report_accuracy
    from bae_ray.progress import console

    if not isinstance(job.extract.input, ICLInput):
        raise InvalidInputError(f"extract.input.kind is {job.extract.input.kind}: this job takes icl.")
    stores: dict[tuple[str, int], ActivationStore] = {}
    for demonstrations in job.demonstrations:
        for k in job.ks:
            console.print(f"{demonstrations} demonstrations, k = {k}")
            prompts = job.extract.input.model_copy(update={"k": k, "demonstrations": demonstrations})
            config = job.extract.model_copy(update={"input": prompts})
            stores[demonstrations, k] = extract(config, job.out / "stores" / f"{demonstrations}-k{k}")
    resolved = job.model_dump_json(indent=2) + "\n"
    write_text(job.out / "config.json", resolved)
    if job.only != "entropy":
        report_accuracy(list(stores.values()), job.out, resolved)
    return _entropy(job, stores, resolved) if job.only != "accuracy" else 0


def _entropy(job: ICLEntropy, stores: dict[tuple[str, int], ActivationStore], resolved: str) -> int:
    """Train the autoencoders and report their entropies."""
    from bae_ray.experiments.icl.icl_entropy import report_icl_entropy
    from bae_ray.progress import console
    from bae_ray.training.sweep import sweep

    sweeps: dict[tuple[str, int], tuple[Path, list[str]]] = {}
    failures: list[str] = []
    for (demonstrations, k), store in stores.items():
        console.print(f"{demonstrations} demonstrations, k = {k}")
        folder = job.out / "sweeps" / f"{demonstrations}-k{k}"
        outcome = sweep(job.sweep, store, folder)
        sweeps[demonstrations, k] = (folder, outcome.finished)
        failures += outcome.failures
    code = report_failures(failures)
    if any(finished for _, finished in sweeps.values()):
        report_icl_entropy(sweeps, job.out, resolved)
    return code


if __name__ == "__main__":
    sys.exit(run_safely(lambda: run(parse_preset(PRESETS, "icl_entropy.py", sys.argv[1:], default="cpu"))))
