"""The autoencoders, their losses and their files; pure torch."""

from bae_ray.autoencoders.bae import BinaryAutoencoder as BinaryAutoencoder
from bae_ray.autoencoders.base import Autoencoder as Autoencoder
from bae_ray.autoencoders.base import AutoencoderOutput as AutoencoderOutput
from bae_ray.autoencoders.checkpoint import build_autoencoder as build_autoencoder
from bae_ray.autoencoders.checkpoint import load_autoencoder as load_autoencoder
from bae_ray.autoencoders.checkpoint import save_autoencoder as save_autoencoder
from bae_ray.autoencoders.config import BAEConfig as BAEConfig
