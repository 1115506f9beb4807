"""Burstiness: a magnitude for binary latents, and what features are selected by (paper, section 5.2)."""

from bae_ray.autoencoders.burstiness import burstiness

__all__ = ["burstiness"]
