"""`python -m bae_ray` is the `bae-ray` command."""

from bae_ray.cli import main

main()
