"""The encoder service as an application for `serve deploy`: config.yaml here says with which settings.

It is built by `bae_ray.serving.app.build`, as in `bae-ray serve`, which serves on one machine.
"""

from bae_ray.serving.app import build

__all__ = ["build"]
