"""Measures of a trained autoencoder on its training and its held-out samples."""

import math
import time
from typing import NamedTuple

from torch import Tensor

from bae_ray.analysis.features import FeatureMetrics, feature_statistics
from bae_ray.analysis.sampling import EntropyEstimate, estimate_entropy
from bae_ray.autoencoders import Autoencoder
from bae_ray.errors import DivergedError, TrainingError
from bae_ray.training.samples import Split


class Trained(NamedTuple):
    """A trained autoencoder and its measures, on the activations as given (not normalised)."""

    autoencoder: Autoencoder
    train: FeatureMetrics
    val: FeatureMetrics
    """On the held-out samples."""
    all: FeatureMetrics
    """Over training and held-out samples together: the paper's entropy is measured on all of them."""
    entropy: EntropyEstimate
    """The entropy over all of them, and how sure it is."""
    seconds: float
    """Its share of the training, and the measuring."""


def measure(
    autoencoder: Autoencoder, split: Split, centre: Tensor, seed: int, seconds: float
) -> Trained | TrainingError:
    """Measure a trained autoencoder, and make all samples its reference set.

    `centre` [D] is the mean of what it reconstructs; `seconds` is its share of the training. An autoencoder that cannot
    be measured has a `TrainingError` in place of measures.
    """
    started = time.monotonic()
    on_train, on_val = (feature_statistics(autoencoder, x, target=target, centre=centre) for x, target in split.parts())
    train_metrics, val_metrics = on_train.metrics(), on_val.metrics()
    for name, metrics in (("training", train_metrics), ("held-out", val_metrics)):
        if math.isnan(metrics.fvu):
            return TrainingError(
                f"all {metrics.n} {name} activations are identical, so their FVU is undefined. Leave this cell out."
            )
        if not math.isfinite(metrics.mse):
            return DivergedError(f"the reconstruction of the {name} activations is {metrics.mse}. Lower lr.")
    on_train.merge(on_val)
    on_train.set_reference(autoencoder)
    entropy = estimate_entropy(autoencoder, split.x, seed)
    seconds += time.monotonic() - started
    return Trained(autoencoder, train_metrics, val_metrics, on_train.metrics(), entropy, seconds)
