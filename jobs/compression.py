"""Compression of hidden states by binary autoencoders, beside the usual quantisers (the paper's Table 3, Appendix A.5).

Extracts activations of one corpus (Ray Data), trains a binary autoencoder per layer and loss weight (Ray Tune), and
compresses activations of another corpus with them, held out from all fitting. Writes compression.csv, compression.png
(rate against distortion) and compression.html. On this machine, and on a cluster:

    python jobs/compression.py laptop
    bae-ray submit compression paper --out /shared/compression --address http://localhost:8265

Interrupted, the same command goes on where it stopped. Needs the extra `compression` (faiss).
"""

from bae_ray.cli.job import start
from bae_ray.experiments.compression.experiment import EXPERIMENT

if __name__ == "__main__":
    start(EXPERIMENT)
