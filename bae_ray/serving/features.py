"""What a feature is, as far as the encoder alone says."""

from typing import Any

import torch

from bae_ray.autoencoders import Autoencoder, BinaryAutoencoder

SIMILAR = 10
EPSILON = 1e-12


@torch.inference_mode()
def describe_feature(autoencoder: Autoencoder, index: int) -> dict[str, Any]:
    """A feature's `direction` [D] in activation space, in the activations' own units, and the features most like it.

    `direction` is what the reconstruction gains where the feature is 1. `similar_indices` and `similar_cosines`: the
    features whose directions have the largest cosine with it. `firing_rate`: the share of the reference set on which it
    fires; None where several bits make one feature.
    """
    dictionary = autoencoder.W_dec
    single = not isinstance(autoencoder, BinaryAutoencoder) or autoencoder.bits_per_feature == 1
    norms = dictionary.norm(dim=1).clamp_min(EPSILON)
    cosines = dictionary @ dictionary[index] / (norms * norms[index])  # nothing of the dictionary's size is made
    cosines[index] = -torch.inf
    nearest = cosines.topk(min(SIMILAR, len(dictionary) - 1))
    # A transcoder's reconstruction is in the units of what it reconstructs.
    direction = dictionary[index] * getattr(autoencoder, "target_scale", autoencoder.scale)
    return {
        "firing_rate": float(autoencoder.prior[index]) if single else None,
        "direction": direction.float().cpu().numpy(),
        "similar_indices": nearest.indices.int().cpu().numpy(),
        "similar_cosines": nearest.values.float().cpu().numpy(),
    }
