"""The autoencoders, their losses and their files. They need torch only; their configs do not even need that."""

from typing import TYPE_CHECKING

from bae_ray.autoencoders.architectures import AutoencoderConfig as AutoencoderConfig
from bae_ray.autoencoders.config import ArchitectureConfig as ArchitectureConfig
from bae_ray.autoencoders.config import BAEConfig as BAEConfig
from bae_ray.autoencoders.config import BatchTopKConfig as BatchTopKConfig
from bae_ray.autoencoders.config import GatedConfig as GatedConfig
from bae_ray.autoencoders.config import GatedSAEConfig as GatedSAEConfig
from bae_ray.autoencoders.config import JumpReLUConfig as JumpReLUConfig
from bae_ray.autoencoders.config import ReLUConfig as ReLUConfig
from bae_ray.autoencoders.config import TopKConfig as TopKConfig
from bae_ray.autoencoders.config import TranscoderConfig as TranscoderConfig
from bae_ray.lazy import lazily

if TYPE_CHECKING:
    from bae_ray.autoencoders.bae import BinaryAutoencoder as BinaryAutoencoder
    from bae_ray.autoencoders.base import Autoencoder as Autoencoder
    from bae_ray.autoencoders.base import AutoencoderOutput as AutoencoderOutput
    from bae_ray.autoencoders.checkpoint import build_autoencoder as build_autoencoder
    from bae_ray.autoencoders.checkpoint import check_architecture as check_architecture
    from bae_ray.autoencoders.checkpoint import load_autoencoder as load_autoencoder

__getattr__, __dir__ = lazily(
    __name__,
    {
        "BinaryAutoencoder": "bae_ray.autoencoders.bae",
        "Autoencoder": "bae_ray.autoencoders.base",
        "AutoencoderOutput": "bae_ray.autoencoders.base",
        "build_autoencoder": "bae_ray.autoencoders.checkpoint",
        "check_architecture": "bae_ray.autoencoders.checkpoint",
        "load_autoencoder": "bae_ray.autoencoders.checkpoint",
    },
)
