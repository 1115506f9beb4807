"""Entropy of a language model's hidden states whose entropy is known to be at most r (the paper's Fig. 11, Appendix B).

Random sequences of r tokens, each one of two, carry r bits; the hidden states of their last token can carry no more.
Extracts them from one layer for several r, trains binary autoencoders of several inner widths on each set, and writes
random_tokens.csv, random_tokens.png and random_tokens.html. On this machine, and on a cluster:

    python jobs/lm_random_tokens.py cpu
    RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/lm_random_tokens.py paper --out /shared/random

Interrupted, the same command goes on where it stopped.
"""

import sys
from pathlib import Path

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.inputs import RandomTokensInput
from bae_ray.autoencoders.config import BAEConfig
from bae_ray.cli import parse_preset, report_failures, run_safely
from bae_ray.config import Config
from bae_ray.errors import InvalidInputError
from bae_ray.files import write_text
from bae_ray.training.config import TrainingConfig
from bae_ray.training.sweep_config import SweepConfig


class LMRandomTokens(Config):
    """Random sequences of two tokens, by their number of bits."""

    out: Path
    """Folder of the whole run: a store and a sweep per r, and the results."""
    bits: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """r of each set: tokens of a sequence."""
    extract: ExtractConfig
    """The activations; input.bits is taken from the one above."""
    sweep: SweepConfig
    """The autoencoders."""


PRESETS = {
    # Sized for a laptop. 150 epochs of 6 steps in place of the paper's 2,000 of 410, so the loss weights are larger.
    "cpu": LMRandomTokens(
        out=Path("runs/lm_random_tokens"),
        bits=(1, 2, 4, 8, 16),
        extract=ExtractConfig(
            input=RandomTokensInput(), layers=(20,), positions=("last",), max_texts=2048, batch_size=64, shard_size=512
        ),
        sweep=SweepConfig(
            autoencoder=BAEConfig(expansion=1),
            training=TrainingConfig(
                epochs=150, batch_size=256, lr=2e-3, lr_decay=0.5, entropy_weight=5e-4, covariance_weight=1e-5
            ),
            axes=("autoencoder.expansion=1,2",),
        ),
    ),
    # Appendix B: layer 12 of Llama 3.2-1B, inner dimensions 2048 to 32768.
    "paper": LMRandomTokens(
        out=Path("runs/lm_random_tokens_paper"),
        bits=(32, 64, 128, 256, 512, 1024),
        extract=ExtractConfig(
            model="meta-llama/Llama-3.2-1B",
            input=RandomTokensInput(),
            layers=(12,),
            positions=("last",),
            max_texts=65_536,
            dtype="bfloat16",
            batch_size=256,
            batch_tokens=65_536,
            shard_size=4096,
            workers=8,
            gpus_per_worker=1,
        ),
        sweep=SweepConfig(axes=("autoencoder.expansion=1,2,4,8,16",), packed=4, gpus_per_trial=0.5),
    ),
}


def run(job: LMRandomTokens) -> int:
    """Run the job, or what is left of it."""
    from bae_ray.activations.extract import extract
    from bae_ray.experiments.random_tokens.report import report_random_tokens
    from bae_ray.progress import console
    from bae_ray.training.sweep import sweep

    if not isinstance(job.extract.input, RandomTokensInput):
        raise InvalidInputError(f"extract.input.kind is {job.extract.input.kind}: this job takes random_tokens.")
    resolved = job.model_dump_json(indent=2) + "\n"
    sweeps: dict[int, tuple[Path, list[str]]] = {}
    failures: list[str] = []
    for bits in job.bits:
        console.print(f"r = {bits}")
        given = job.extract.input.model_copy(update={"bits": bits})
        store = extract(job.extract.model_copy(update={"input": given}), job.out / "stores" / f"r{bits}")
        folder = job.out / "sweeps" / f"r{bits}"
        outcome = sweep(job.sweep, store, folder)
        sweeps[bits] = (folder, outcome.finished)
        failures += outcome.failures
    write_text(job.out / "config.json", resolved)
    code = report_failures(failures)
    if any(finished for _, finished in sweeps.values()):
        report_random_tokens(sweeps, job.out, resolved)
    return code


if __name__ == "__main__":
    sys.exit(run_safely(lambda: run(parse_preset(PRESETS, "lm_random_tokens.py", sys.argv[1:], default="cpu"))))
