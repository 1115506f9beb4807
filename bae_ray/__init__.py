"""bae_ray: sweeps of Binary Autoencoders (arXiv 2509.20997) over a language model's hidden states.

Public names are loaded on first use, so importing the package costs nothing and needs no Ray.
"""

from typing import TYPE_CHECKING

from bae_ray.lazy import lazily

if TYPE_CHECKING:
    from bae_ray.activations.store import ActivationStore as ActivationStore
    from bae_ray.autoencoders import load_autoencoder as load_autoencoder
    from bae_ray.feature_model import FeatureModel as FeatureModel
    from bae_ray.training.results import results as results
    from bae_ray.training.trainer import train as train
    from bae_ray.training.trainer import train_many as train_many
    from bae_ray.version import __version__ as __version__

__getattr__, __dir__ = lazily(
    __name__,
    {
        "__version__": "bae_ray.version",
        "ActivationStore": "bae_ray.activations.store",
        "FeatureModel": "bae_ray.feature_model",
        "load_autoencoder": "bae_ray.autoencoders",
        "results": "bae_ray.training.results",
        "train": "bae_ray.training.trainer",
        "train_many": "bae_ray.training.trainer",
    },
)
