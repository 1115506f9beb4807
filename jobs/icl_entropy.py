"""In-context learning: accuracy over the number of demonstrations (the paper's Fig. 7, section 4.3 and Appendix A.3).

Extracts the last token's activations of in-context-learning prompts for each k, with demonstrations sampled for each
query and, beside them, fixed as in the released code; the model's answers come in the same pass. Writes accuracy.csv,
accuracy.png and accuracy.html. On this machine, and on a cluster:

    python jobs/icl_entropy.py cpu --only accuracy --out runs/icl
    RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/icl_entropy.py paper --out /shared/icl

Interrupted, the same command goes on where it stopped. The stores in `out` hold the activations of every layer asked
for, to be swept over with `bae-ray sweep --store ...`.
"""

import sys
from pathlib import Path
from typing import Literal

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.inputs import ICLInput
from bae_ray.cli import parse_preset, run_safely
from bae_ray.config import Config
from bae_ray.errors import InvalidInputError
from bae_ray.files import write_text


class ICLEntropy(Config):
    """In-context-learning prompts over the number of demonstrations."""

    out: Path
    """Folder of the whole run: a store per k and way of choosing demonstrations, and the results."""
    only: Literal["accuracy"] = "accuracy"
    """What of it: accuracy, the model's answers over k (Fig. 7)."""
    ks: tuple[int, ...] = (0, 1, 2, 4, 8)
    """Numbers of demonstrations."""
    demonstrations: tuple[Literal["sampled", "fixed"], ...] = ("sampled", "fixed")
    """Ways of choosing them."""
    extract: ExtractConfig
    """The activations; input.k and input.demonstrations are taken from the two above."""


PRESETS = {
    # Sized for a laptop: some minutes on 2 cores.
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
    ),
}


def run(job: ICLEntropy) -> int:
    """Run the job, or what is left of it."""
    from bae_ray.activations.extract import extract
    from bae_ray.progress import console
    from bae_ray.report.icl import report_accuracy

    if not isinstance(job.extract.input, ICLInput):
        raise InvalidInputError(f"extract.input.kind is {job.extract.input.kind}: this job takes icl.")
    stores = []
    for demonstrations in job.demonstrations:
        for k in job.ks:
            console.print(f"{demonstrations} demonstrations, k = {k}")
            prompts = job.extract.input.model_copy(update={"k": k, "demonstrations": demonstrations})
            config = job.extract.model_copy(update={"input": prompts})
            stores.append(extract(config, job.out / "stores" / f"{demonstrations}-k{k}"))
    resolved = job.model_dump_json(indent=2) + "\n"
    write_text(job.out / "config.json", resolved)
    report_accuracy(stores, job.out, resolved)
    return 0


if __name__ == "__main__":
    sys.exit(run_safely(lambda: run(parse_preset(PRESETS, "icl_entropy.py", sys.argv[1:], default="cpu"))))
