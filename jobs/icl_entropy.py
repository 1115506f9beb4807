"""In-context learning: entropy and accuracy over the number of demonstrations (the paper's Fig. 4 and Fig. 7).

Section 4.3 and Appendix A.3. Extracts the last token's activations of in-context-learning prompts for each k, with
demonstrations sampled for each query and, beside them, fixed as in the released code; the model's answers come in the
same pass. Writes accuracy.csv, accuracy.png and accuracy.html (Fig. 7); then trains a binary autoencoder for each k and
layer and writes entropy.csv, entropy.png and entropy.html (Fig. 4). On this machine, and on a cluster:

    python jobs/icl_entropy.py laptop --out runs/icl
    python jobs/icl_entropy.py laptop --only accuracy --out runs/icl
    bae-ray submit icl_entropy paper --out /shared/icl --address http://localhost:8265

Interrupted, the same command goes on where it stopped.
"""

from bae_ray.cli.job import start
from bae_ray.experiments.icl.experiment import EXPERIMENT

if __name__ == "__main__":
    start(EXPERIMENT)
