"""Whether features of a high score cluster more than those of a low one (the paper's Fig. 42 and 43, Appendix F.3).

Extracts the activations of two corpora (Ray Data), trains a binary autoencoder on one (Ray Tune), finds its features on
the other and scores them; or takes what ComSem has scored. Of all scored features it measures how their tokens lie
among the others of their sentences, against shuffled labels and control tokens, and draws some by UMAP, for which
umap-learn is to be installed (pip install 'bae-ray[umap]'). Writes feature_shape.csv, shape_by_score.csv,
shape_controls.csv, feature_shape.png, umap.png and feature_shape.html. On this machine, and on a cluster:

    python jobs/feature_shape.py laptop
    python jobs/feature_shape.py laptop --scored runs/comsem_table/comsem/bae-layer-10
    bae-ray submit feature_shape paper --out /shared/feature_shape --address http://localhost:8265

The first asks no judge, and scores features by the words of their examples; --scores judge asks one. Interrupted, the
same command goes on where it stopped, and nothing is computed twice.
"""

from bae_ray.cli.job import start
from bae_ray.experiments.feature_shape.experiment import EXPERIMENT

if __name__ == "__main__":
    start(EXPERIMENT)
