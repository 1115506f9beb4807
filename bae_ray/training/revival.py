"""Revival of dead latents: a new start at samples that are badly reconstructed (after Bricken et al., 2023).

Shapes: N samples, D d_in, F d_latent, K dead latents.
"""

from typing import Any

import torch

from bae_ray.training.data import Batches
from bae_ray.training.stack import Member

ENCODER_SHARE = 0.2
"""Length of a revived latent's encoder column against the mean of the living ones: it should not fire everywhere."""


@torch.no_grad()
def revive(member: Member, data: Batches, batch_size: int, generator: torch.Generator) -> int:
    """Restart every latent that fires on no training sample; how many there were.

    Each gets the direction of a sample, drawn with a probability proportional to its squared error, as its encoder
    column and, where a latent has a dictionary row of its own, as that row. Its moments in Adam are forgotten.
    """
    autoencoder = member.autoencoder.eval()
    fired = torch.zeros(autoencoder.d_latent, dtype=torch.bool, device=autoencoder.mean.device)
    errors = []
    for batch in data.batches(torch.arange(len(data)), batch_size):
        latents = autoencoder.activate(autoencoder.pre_activations(batch.x))
        fired |= (latents != 0).any(0)
        errors.append((autoencoder.decode_normalized(latents) - batch.target).square().sum(1))
    autoencoder.train()
    dead = (~fired).nonzero().flatten()
    error = torch.cat(errors).double().cpu()
    if len(dead) == 0 or not fired.any() or error.sum() == 0:
        return 0
    drawn = torch.multinomial(error, len(dead), replacement=True, generator=generator)
    batch = next(data.batches(drawn, len(drawn)))
    into = torch.nn.functional.normalize(batch.x, dim=1)
    autoencoder.W_enc[:, dead] = into.T * (ENCODER_SHARE * autoencoder.W_enc[:, fired].norm(dim=0).mean())
    restarted: dict[str, tuple[Any, ...]] = {"W_enc": (slice(None), dead)}
    for name in ("b_enc", "b_gate", "b_mag", "r_mag"):
        if getattr(autoencoder, name, None) is not None:
            autoencoder.get_parameter(name)[dead] = 0.0
            restarted[name] = (dead,)
    if autoencoder.n_features == autoencoder.d_latent:
        out = torch.nn.functional.normalize(batch.target, dim=1)
        autoencoder.W_dec[dead] = out * autoencoder.W_dec[fired].norm(dim=1).mean()
        restarted["W_dec"] = (dead,)
    for name, where in restarted.items():
        moments = member.optimizer.state.get(autoencoder.get_parameter(name), {})
        for key in ("exp_avg", "exp_avg_sq"):
            if key in moments:
                moments[key][where] = 0.0
    return len(dead)
