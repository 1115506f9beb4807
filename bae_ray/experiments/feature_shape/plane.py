"""A feature's tokens in a plane, by UMAP: the extra `umap`."""

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bae_ray.analysis.feature_clusters import Floats
    from bae_ray.experiments.feature_shape.config import PlaneConfig

MISSING = (
    "umap-learn is not installed: there will be all numbers and no umap.png. For the picture: pip install "
    "'bae-ray[umap]', and the same command again, which computes nothing else anew"
)
"""What is said before anything long, and on the page."""


def has_umap() -> bool:
    """Whether umap-learn is installed; nothing is imported, which would take seconds."""
    return find_spec("umap") is not None


def umap_version() -> str:
    """The version that is installed: another one may draw otherwise."""
    from importlib.metadata import version

    return version("umap-learn")


def in_plane(x: "Floats", config: "PlaneConfig") -> "Floats":
    """Activations [N, D] in a plane, [N, 2]; the same for the same config on one machine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # of TensorFlow, which nothing here would use
        import umap  # pyright: ignore[reportMissingImports] - an extra

    reducer = umap.UMAP(
        n_neighbors=min(config.n_neighbors, len(x) - 1),
        min_dist=config.min_dist,
        metric="euclidean",
        random_state=config.seed,
        n_jobs=1,  # what a seed asks for
        # A spectral start needs more tokens than its eigenvectors.
        init="spectral" if len(x) > config.n_neighbors else "random",
    )
    return np.asarray(reducer.fit_transform(x), dtype=np.float64)
