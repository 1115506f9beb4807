"""Restarting dead latents at badly reconstructed samples (after Bricken et al., 2023).

Shapes: N samples, D d_in, F d_latent, K dead latents.
"""

from typing import Any

import torch
from torch import Tensor

from bae_ray.autoencoders import Autoencoder
from bae_ray.training.samples import Batches
from bae_ray.training.stack import Member

ENCODER_SHARE = 0.2
"""Length of a restarted latent's encoder column relative to the others' mean, so that it does not fire everywhere."""


MARGIN = 1.5
"""Pre-activation of a restarted latent on its sample, relative to the smallest that fires there."""


@torch.no_grad()
def revive(member: Member, data: Batches, batch_size: int, generator: torch.Generator) -> int:
    """Restart every latent that fires on no training sample; gives their number.

    Each gets the direction of a sample, drawn with a probability proportional to its squared error, as its encoder
    column, long enough to fire on it, and, where a latent has a dictionary row of its own, as that row. Its biases are
    0, its threshold is the mean of the others', and its moments in Adam are forgotten.
    """
    autoencoder = member.autoencoder.eval()
    fired, errors = _survey(autoencoder, data, batch_size)
    dead = (~fired).nonzero().flatten()
    if len(dead) == 0 or not fired.any() or not errors.isfinite().all() or errors.sum() == 0:
        autoencoder.train()
        return 0
    drawn = _draw(errors, len(dead), generator)
    (batch,) = data.batches(drawn, len(drawn))
    restarted: dict[str, tuple[Any, ...]] = {"W_enc": (slice(None), dead)}
    least = _least_kept(autoencoder, batch.x)
    restarted.update((name, (dead,)) for name in autoencoder.restart(dead, fired))
    least = least.clamp_min(autoencoder.least_firing(dead))
    usual = ENCODER_SHARE * autoencoder.W_enc[:, fired].norm(dim=0).mean()
    length = torch.maximum(usual, MARGIN * least / batch.x.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny))
    autoencoder.W_enc[:, dead] = torch.nn.functional.normalize(batch.x, dim=1).T * length
    if autoencoder.n_features == autoencoder.d_latent:
        out = torch.nn.functional.normalize(batch.target, dim=1)
        autoencoder.W_dec[dead] = out * autoencoder.W_dec[fired].norm(dim=1).mean()
        restarted["W_dec"] = (dead,)
    for name, where in restarted.items():
        moments = member.optimizer.state.get(autoencoder.get_parameter(name), {})
        for key in ("exp_avg", "exp_avg_sq"):
            if key in moments:
                moments[key][where] = 0.0
    autoencoder.train()
    return len(dead)


def _survey(autoencoder: Autoencoder, data: Batches, batch_size: int) -> tuple[Tensor, Tensor]:
    """Which latents fire on any sample, [F]; the squared error of every sample, [N], double, on the CPU."""
    fired = torch.zeros(autoencoder.d_latent, dtype=torch.bool, device=autoencoder.mean.device)
    errors = []
    for batch in data.batches(torch.arange(len(data)), batch_size, partial=True):
        latents = autoencoder.activate(autoencoder.pre_activations(batch.x))
        fired |= (latents != 0).any(0)
        errors.append((autoencoder.decode_normalized(latents) - batch.target).square().sum(1))
    return fired, torch.cat(errors).double().cpu()


def _draw(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` indices drawn with probabilities proportional to `weights`; torch.multinomial takes only 2^24 of these."""
    ends = weights.cumsum(0)
    drawn = torch.searchsorted(ends, torch.rand(n, dtype=torch.float64, generator=generator) * ends[-1], right=True)
    return drawn.clamp_max(len(weights) - 1)


def _least_kept(autoencoder: Autoencoder, x: Tensor) -> Tensor:
    """The smallest pre-activation that fires on each sample, [N]; where none does, the largest of the others'."""
    pre_activations = autoencoder.pre_activations(x)
    fires = autoencoder.activate(pre_activations) != 0
    least = pre_activations.where(fires, torch.inf).amin(1)
    known = least.isfinite()
    return least.where(known, least[known].amax() if known.any() else 0.0).clamp_min(0)
