"""Features of binary and sparse autoencoders named and scored by a judge (the paper's Table 1, Table 4, Fig. 24-28).

Section 5.3, Appendices A.4 and C. Extracts activations of two corpora (Ray Data), trains every method at every layer on
the first (Ray Tune), and has a judge name and score their features on the second, which nothing was fitted on. Writes
comsem.csv (Table 1), best.csv (Table 4), a picture of the sorted scores per layer, comsem.html, and a browser of each
method's features. Without --judge.judge-url the job starts the judge itself, in vLLM on the same Ray (`make judge`
installs that). On this machine, and on a cluster:

    python jobs/comsem_table.py laptop
    python jobs/comsem_table.py laptop --judge.judge-url http://localhost:8000/v1 --judge.judge-model smollm2-135m
    bae-ray submit comsem_table paper --out /shared/comsem --address http://localhost:8265

Interrupted, the same command goes on where it stopped, and no answer is asked for twice.
"""

from bae_ray.cli.job import start
from bae_ray.experiments.comsem_table.experiment import EXPERIMENT

if __name__ == "__main__":
    start(EXPERIMENT)
