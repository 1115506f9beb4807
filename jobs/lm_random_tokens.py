"""Entropy of a language model's hidden states whose entropy is known to be at most r (the paper's Fig. 11, Appendix B).

Random sequences of r tokens, each one of two, carry r bits; the hidden states of their last token can carry no more.
Extracts them from one layer for several r, trains binary autoencoders of several inner widths on each set, and writes
random_tokens.csv, random_tokens.png and random_tokens.html. On this machine, and on a cluster:

    python jobs/lm_random_tokens.py laptop
    bae-ray submit lm_random_tokens paper --out /shared/random --address http://localhost:8265

Interrupted, the same command goes on where it stopped.
"""

from bae_ray.cli.job import start
from bae_ray.experiments.random_tokens.experiment import EXPERIMENT

if __name__ == "__main__":
    start(EXPERIMENT)
