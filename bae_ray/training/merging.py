"""Merging latents of a binary autoencoder that are copies of each other.

Training itself does not merge them: two copies of a fair bit share a direction, their entropy is at its maximum and so
has no gradient, and the reconstruction is as good with both. Each copy adds a bit to the marginal entropy that the code
does not have.

Shapes: N samples, F d_latent, V latents that vary.
"""

import torch
from torch import Tensor

from bae_ray.autoencoders import Autoencoder
from bae_ray.autoencoders.pair_counts import PairCounts, fired_counts
from bae_ray.training.samples import Batches
from bae_ray.training.stack import Member

SAMPLES = 8192
"""Largest number of training samples used; of more, this many, evenly spaced."""
LEAST_CORRELATION = 0.98
"""From this correlation on, of either sign, two latents count as copies."""
OFF = -1.0
"""Bias of a latent that has become part of another; its encoder column is 0, so that it never fires."""


@torch.no_grad()
def merge_copies(member: Member, data: Batches, batch_size: int) -> int:
    """Merge latents that are copies or opposites of another on the training samples; return their number.

    The one with the smaller number takes over the other's dictionary row (its opposite's, with the sign changed, and
    b_dec takes the rest), so that what exact copies reconstruct is the same as before. The merged latent stays off; its
    moments in Adam are forgotten.
    """
    autoencoder = member.autoencoder.eval()
    counts = _counts(autoencoder, data, batch_size)
    kept, merged, signs = _copies(counts)
    autoencoder.train()
    if len(merged) == 0:
        return 0
    rows = signs[:, None] * autoencoder.W_dec[merged]
    autoencoder.W_dec.index_add_(0, kept, rows)
    autoencoder.b_dec.add_(autoencoder.W_dec[merged][signs < 0].sum(0))
    autoencoder.W_dec[merged] = 0.0
    autoencoder.W_enc[:, merged] = 0.0
    assert autoencoder.b_enc is not None
    autoencoder.b_enc[merged] = OFF
    for name, where in (("W_enc", (slice(None), merged)), ("W_dec", (merged,)), ("b_enc", (merged,))):
        moments = member.optimizer.state.get(autoencoder.get_parameter(name), {})
        for key in ("exp_avg", "exp_avg_sq"):
            if key in moments:
                moments[key][where] = 0.0
    return len(merged)


def _counts(autoencoder: Autoencoder, data: Batches, batch_size: int) -> PairCounts:
    n = min(len(data), SAMPLES)
    order = torch.linspace(0, len(data) - 1, n, dtype=torch.float64).round().long()
    codes = [
        autoencoder.activate(autoencoder.pre_activations(batch.x)).bool()
        for batch in data.batches(order, batch_size, partial=True)
    ]
    fired = torch.stack([fired_counts(code) for code in codes]).sum(0)
    counts = PairCounts(autoencoder.d_latent, ((fired > 0) & (fired < n)).nonzero().squeeze(1), fired.device)
    for code in codes:
        counts.add(code)
    return counts


def _copies(counts: PairCounts) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the latents that stay, those that become part of each, and the signs of their correlation, [K]."""
    together, n = counts.together(), float(counts.n)
    fired = counts.fired[counts.varying].double()
    spread = (fired * (n - fired)).sqrt()
    gone = torch.zeros(len(fired), dtype=torch.bool)
    found: list[tuple[int, int, float]] = []
    for one in range(len(fired)):
        if gone[one]:
            continue
        correlation = (n * together[one, one + 1 :].double() - fired[one] * fired[one + 1 :]) / (
            spread[one] * spread[one + 1 :]
        )
        for offset in (correlation.abs() >= LEAST_CORRELATION).nonzero().flatten().tolist():
            other = one + 1 + offset
            if not gone[other]:
                gone[other] = True
                found.append((one, other, float(correlation[offset].sign())))
    kept, merged = (torch.tensor([pair[i] for pair in found], dtype=torch.int64) for i in (0, 1))
    signs = torch.tensor([sign for _, _, sign in found], device=counts.varying.device)
    return counts.varying[kept], counts.varying[merged], signs
