"""More-bit decoding (the paper's Table 2), firing rates (Fig. 5, 39-41) and magnitude maps (Fig. 35-38).

Extracts the activations of two corpora (Ray Data), trains binary autoencoders with one to four bits per feature, and a
ReLU autoencoder beside them (Ray Tune), on one; on the other it counts how often each feature is active. Writes
more_bit.csv, more_bit.png, firing_rates.png, a magnitudes_layer*.png per layer and more_bit.html. On this machine, and
on a cluster:

    python jobs/more_bit.py laptop
    python jobs/more_bit.py laptop --judged
    bae-ray submit more_bit paper --out /shared/more_bit --address http://localhost:8265

The second has a judge name and score features of Table 2 (ComSem): one that the job starts itself, in vLLM on the same
Ray (`make judge` installs that), or the server at --judge.judge-url. Interrupted, the same command goes on where it
stopped, and no answer is asked for twice.
"""

from bae_ray.cli.job import start
from bae_ray.experiments.more_bit.experiment import EXPERIMENT

if __name__ == "__main__":
    start(EXPERIMENT)
