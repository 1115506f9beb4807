"""Measures of a trained autoencoder on its training and its held-out samples."""

import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from bae_ray.analysis.features import FeatureMetrics, feature_statistics
from bae_ray.analysis.joint_bits import EncodedRows, JointBits, joint_bits
from bae_ray.analysis.rivals import CellRivals, Rivals
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
    """The entropy over all of them, with its uncertainty."""
    seconds: float
    """Its share of the seconds of training, plus measuring."""
    joint: JointBits | None = None
    """Bits of the code with dependence counted; None for latents that are no code."""
    entropy_val: EntropyEstimate | None = None
    """The entropy over the held-out samples alone, which the autoencoder was not fitted to."""
    rivals: Rivals | None = None
    """Measures of what is reconstructed that need no autoencoder, at its held-out FVU."""


def measure(
    autoencoder: Autoencoder,
    split: Split,
    centre: Tensor,
    seed: int,
    seconds: float,
    texts: Tensor | None = None,
    cell: CellRivals | None = None,
) -> Trained | TrainingError:
    """Measure a trained autoencoder, make all samples its reference set, and the tree of their codes its tree.

    `centre` [D] is the mean of what it reconstructs; `seconds` is its share of the training. `texts` [N]: the number of
    the text of each sample, where a text has several. `cell`: measures of `split` (`rivals_of`). If an autoencoder
    cannot be measured, it gets a `TrainingError` in place of measures.
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
    held_out, texts_held_out = split.x.select(split.held_out), None if texts is None else texts[split.held_out]
    entropy = estimate_entropy(autoencoder, split.x, seed, texts)
    entropy_val = estimate_entropy(autoencoder, held_out, seed, texts_held_out)
    joint = _joint(autoencoder, split, seed, texts) if autoencoder.architecture.is_binary else None
    autoencoder.tree = None if joint is None else joint.model
    rivals = None if cell is None else cell.at(val_metrics.fvu)
    seconds += time.monotonic() - started
    return Trained(
        autoencoder, train_metrics, val_metrics, on_train.metrics(), entropy, seconds, joint, entropy_val, rivals
    )


def rivals_of(split: Split, seed: int, device: torch.device) -> CellRivals | None:
    """The measures of what autoencoders of a split reconstruct, once for all of them.

    None where the decomposition of the covariance fails: no training is lost for it.
    """
    train, heldout = (x if target is None else target for x, target in split.parts())
    try:
        return CellRivals(train, heldout, seed, device)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return None


def _joint(autoencoder: Autoencoder, split: Split, seed: int, texts: Tensor | None) -> JointBits | None:
    (train, _), (held_out, _) = split.parts()
    numbers = None
    if texts is not None:
        _, number = torch.unique(texts, return_inverse=True)
        numbers = number[split.train], number[split.held_out]
    return joint_bits(EncodedRows(autoencoder, train), EncodedRows(autoencoder, held_out), seed, numbers)
