"""Describe a feature from the encoder's weights alone."""

from typing import Any

import torch

from bae_ray.autoencoders import Autoencoder

SIMILAR = 10


@torch.inference_mode()
def describe_feature(autoencoder: Autoencoder, index: int) -> dict[str, Any]:
    """A feature's `direction` [D] in activation space, in the activations' own units, and the features most like it.

    `direction` is what the reconstruction gains where the feature is 1. `similar_indices` and `similar_cosines`: the
    features whose directions have the largest cosine with it. `firing_rate`: the share of the reference set on which it
    fires; None where several bits make one feature, or there is no prior.
    """
    dictionary = autoencoder.W_dec
    single = autoencoder.n_features == autoencoder.d_latent
    # In double precision, and with a row of length 1: whatever the dictionary's scale, no square is lost. Nothing of
    # the dictionary's size is made. A row of zeros has cosine 0 with all others.
    norms = torch.linalg.vector_norm(dictionary, dim=1, dtype=torch.float64)
    lengths = norms.where(norms > 0, 1.0)
    unit = (dictionary[index].double() / lengths[index]).to(dictionary.dtype)
    cosines = ((dictionary @ unit).double() / lengths).clamp(-1, 1)
    cosines[index] = -torch.inf
    nearest = cosines.topk(min(SIMILAR, len(dictionary) - 1))
    # A transcoder's reconstruction is in the units of what it reconstructs.
    direction = dictionary[index] * autoencoder.target_normalization[1]
    return {
        "firing_rate": float(autoencoder.prior[index]) if single and autoencoder.has_prior else None,
        "direction": direction.float().cpu().numpy(),
        "similar_indices": nearest.indices.int().cpu().numpy(),
        "similar_cosines": nearest.values.float().cpu().numpy(),
    }
