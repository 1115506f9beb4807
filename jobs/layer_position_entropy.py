"""Entropy of a language model's hidden states by layer and token position (the paper's Fig. 3 and section 4.2).

Extracts the activations (Ray Data), trains a binary autoencoder per cell (Ray Tune), and writes entropy.csv,
entropy.png and report.html; with several entropy weights also matched.csv and matched.png, the bits at one held-out FVU
for all cells. On this machine, and on a cluster:

    python jobs/layer_position_entropy.py laptop --out runs/demo
    python jobs/layer_position_entropy.py matched --out runs/matched
    bae-ray submit layer_position_entropy paper --out /shared/fig3 --address http://localhost:8265

Interrupted, the same command goes on where it stopped: finished shards and runs are never computed again.
"""

from bae_ray.cli.job import start
from bae_ray.experiments.layer_position.experiment import EXPERIMENT

if __name__ == "__main__":
    start(EXPERIMENT)
