"""The sides of benchmarks/training.py that are other packages; run by it inside their environments.

Each is driven through its own trainer's step, on a batch that is ready on the device, with logging off.
"""

import sys
import types
from typing import Any

from training_timing import Side, Spec, answer, measure, random_batch

LR = 5e-4
K = 15
STEPS = 1_000_000


def sae_lens(spec: Spec) -> Side:
    """SAETrainer.step, and what `fit` counts around it."""
    from sae_lens import (  # pyright: ignore[reportMissingImports]
        LoggingConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

    shape: dict[str, Any] = {"d_in": spec.d, "d_sae": spec.d * spec.expansion, "device": spec.device}
    if spec.architecture == "relu":
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(**shape, l1_coefficient=1e-7))
    else:
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(**shape, k=K))
    config = SAETrainerConfig(
        total_training_samples=STEPS * spec.batch_size,
        train_batch_size_samples=spec.batch_size,
        lr=LR,
        lr_end=LR,
        device=spec.device,
        logger=LoggingConfig(log_to_wandb=False),
    )
    x = random_batch(spec)
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
    sae.to(spec.device)

    def step() -> None:
        trainer.maybe_reset_sparsity()
        trainer.step(x)
        trainer.n_training_steps += 1

    return Side(step)


def dictionary_learning(spec: Spec) -> Side:
    """The trainers' `update`."""
    # The package imports nnsight, which its trainers do not use and which needs a torchvision that fits torch's build.
    stand_in = types.ModuleType("nnsight")
    stand_in.LanguageModel = object  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules.setdefault("nnsight", stand_in)
    from dictionary_learning.trainers import StandardTrainer, TopKTrainer  # pyright: ignore[reportMissingImports]

    shared: dict[str, Any] = {
        "steps": STEPS,
        "activation_dim": spec.d,
        "dict_size": spec.d * spec.expansion,
        "layer": 0,
        "lm_name": "none",
        "lr": LR,
        "device": spec.device,
    }
    trainer = StandardTrainer(**shared, l1_penalty=1e-7) if spec.architecture == "relu" else TopKTrainer(**shared, k=K)
    x = random_batch(spec)
    done = 0

    def step() -> None:
        nonlocal done
        trainer.update(done, x)
        done += 1

    return Side(step)


SIDES = {"sae-lens": sae_lens, "dictionary-learning": dictionary_learning}

if __name__ == "__main__":
    answer(lambda spec: measure(SIDES[spec.side], spec))
