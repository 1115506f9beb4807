"""The recipe `scaled`: settings with which a binary autoencoder finds the true number of bits, at every width.

The number of bits need not be known: all settings follow from the width d of the activations, at unit RMS. A set of r
fair bits then has variance 1, and each bit explains 1 / r of it; the penalties are set for up to d / 4 bits. The effect
of each ingredient: docs/recipe.md.
"""

from typing import Any

from pydantic import ValidationError

from bae_ray.autoencoders.architectures import architecture_of
from bae_ray.autoencoders.config import ArchitectureConfig
from bae_ray.config import describe
from bae_ray.errors import InvalidInputError
from bae_ray.training.config import TrainingConfig

STEP = 2.0
"""Learning rate times width: a step of Adam changes each of the d weights of a sum by about the learning rate."""
ENTROPY = 0.1
"""Price of a bit, as a share of what one of d / 4 bits explains, 4 / d."""
COVARIANCE = 0.001
"""The same of a unit of covariance: a hundredth. More of it pays for undoing the covariance that independent bits have
by chance in a batch."""
MERGINGS = 20
"""How often copies are merged in a training."""


def resolved(training: TrainingConfig, architecture: ArchitectureConfig, width: int) -> TrainingConfig:
    """The training with the recipe's values for fields that are at their defaults; it still names its recipe.

    Raises `InvalidInputError` if the recipe does not fit the architecture or another field.
    """
    _check_start(training, architecture.model_copy(update={"d_in": width}))
    if training.recipe == "paper":
        return training
    left = {name: value for name, value in _filled_in(training, width).items() if _is_default(training, name)}
    try:
        return TrainingConfig.model_validate(dict(training) | left)
    except ValidationError as error:
        filled = ", ".join(f"{name} {value:g}" for name, value in left.items() if isinstance(value, float))
        raise InvalidInputError(
            f"training.recipe is scaled, which sets {filled}: {describe(error)}. Give a number that fits for the field."
        ) from error


def scaled(training: TrainingConfig, entropy_weight: float) -> TrainingConfig:
    """This training with the recipe `scaled` at this entropy weight; the recipe's fields override the given ones."""
    own = {name: type(training).model_fields[name].default for name in _filled_in(training, 1)}
    return training.model_copy(update={**own, "recipe": "scaled", "entropy_weight": entropy_weight})


def _filled_in(training: TrainingConfig, width: int) -> dict[str, Any]:
    return {
        "initial": "components",
        "merge_every": max(1, training.epochs // MERGINGS),
        "lr": STEP / width,
        "lr_decay": 0.5,
        "entropy_weight": ENTROPY * 4 / width,
        "entropy_warmup": 0.0,
        "covariance_weight": COVARIANCE * 4 / width,
    }


def _check_start(training: TrainingConfig, architecture: ArchitectureConfig) -> None:
    """Raise `InvalidInputError` where a recipe, initial weights or merging are for another architecture."""
    asked = [
        f"training.{name} is {getattr(training, name)}"
        for name in ("recipe", "initial", "merge_every")
        if not _is_default(training, name)
    ]
    if asked and not _can_start(architecture):
        raise InvalidInputError(
            f"{asked[0]}, which is for binary autoencoders with an encoder bias and one bit per feature, and the "
            f"architecture is {architecture.name}. Leave it out for this one."
        )
    if asked and training.decoder_norm == "unit":
        raise InvalidInputError(
            f"{asked[0]}, which gives the dictionary's rows lengths of their own, and training.decoder_norm is unit. "
            "Set it to free."
        )
    if training.recipe == "scaled" and training.revive_every is not None:
        raise InvalidInputError(
            f"training.recipe is scaled, by which latents that no bit needs are off, and training.revive_every is "
            f"{training.revive_every}, which would restart them. Leave it out."
        )
    if training.recipe == "scaled" and training.normalize != "rms":
        raise InvalidInputError(
            f"training.recipe is scaled, whose settings are for activations at unit RMS, and training.normalize is "
            f"{training.normalize}. Set it to rms."
        )


def _can_start(architecture: ArchitectureConfig) -> bool:
    one_bit = architecture.n_features == architecture.widths()[1]
    return architecture_of(architecture).is_binary and architecture.encoder_bias and one_bit


def _is_default(training: TrainingConfig, name: str) -> bool:
    return getattr(training, name) == type(training).model_fields[name].default
