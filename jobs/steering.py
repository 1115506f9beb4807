"""Steering by the features of demonstrations (the paper's Fig. 6, section 5.4), beside controls.

Trains a binary, a ReLU, a top-k and a gated autoencoder on a corpus (Ray Data, Ray Tune); makes a vector of each from
the last tokens of prompts with demonstrations and without, beside the centroids' difference, a principal component,
random directions and random features; adds them to other prompts without demonstrations and measures accuracy, log-odds
and what happens to neutral texts. Writes steering.csv, steering_means.csv, steering.png, steering_features.png,
steering_layers.png and steering.html. On this machine, and on a cluster:

    python jobs/steering.py laptop
    python jobs/steering.py laptop --prompts.corpus sst2 --out runs/steering_sst2
    bae-ray submit steering paper --out /shared/steering --address http://localhost:8265

Interrupted, the same command goes on where it stopped.
"""

from bae_ray.cli.job import start
from bae_ray.experiments.steering.experiment import EXPERIMENT

if __name__ == "__main__":
    start(EXPERIMENT)
