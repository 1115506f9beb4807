"""Entropy of synthetic sets whose entropy is known (the paper's section 4.1: Fig. 2, 12 and 29-34).

Makes sets of r bits, trains binary autoencoders on them (Ray Tune) with and without the entropy loss, for several
expansions, seeds, and the three gradients of the step function, and writes synthetic.csv, synthetic.png (bits against
r: Fig. 2), dynamics.png (loss against entropy at every step: Fig. 12, and of further ranks 29-34) and report.html. On
this machine, and on a cluster:

    python jobs/synthetic_entropy.py laptop
    bae-ray submit synthetic_entropy paper --out /shared/synthetic --address http://localhost:8265

Interrupted, the same command goes on where it stopped.
"""

from bae_ray.cli.job import start
from bae_ray.experiments.synthetic.experiment import EXPERIMENT

if __name__ == "__main__":
    start(EXPERIMENT)
