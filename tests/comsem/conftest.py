from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import Autoencoder, BAEConfig, ReLUConfig, build_autoencoder
from tests.comsem.server import JudgeServer, Script


@pytest.fixture(scope="session")
def sentences_store(
    ray_cluster: None, tiny_model: Path, tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Every token of the tiny corpus, at the embeddings and one layer further, in several shards."""
    from bae_ray.activations.extract import extract

    path = tmp_path_factory.mktemp("stores") / "sentences"
    extract(
        ExtractConfig(model=str(tiny_model), corpus=str(tiny_corpus), positions=("all",), layers=(0, 1),
                      shard_size=60, gpus_per_worker=0, workers=1),
        path,
        "inline",
    )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def word_autoencoder(sentences_store: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder at layer 0 with a latent per word, largest on the word's own embedding (Cauchy and Schwarz)."""
    embeddings = load_file(tiny_model / "model.safetensors")["embed_tokens.weight"].float()
    autoencoder = build_autoencoder(ReLUConfig(d_in=embeddings.shape[1], d_latent=len(embeddings)))
    with torch.no_grad():
        autoencoder.W_enc.copy_(torch.nn.functional.normalize(embeddings, dim=1).T)
        autoencoder.W_dec.copy_(autoencoder.W_enc.T)
        autoencoder.get_parameter("b_enc").zero_()
        autoencoder.b_dec.zero_()
    folder = tmp_path_factory.mktemp("autoencoders") / "words"
    autoencoder.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_bae(sentences_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained binary autoencoder, normalised to layer 1."""
    autoencoder = untrained(BAEConfig(d_in=ActivationStore.open(sentences_store).manifest.d, d_latent=48))
    x = ActivationStore.open(sentences_store).matrix(1, "all")
    autoencoder.mean.copy_(x.mean(0))
    autoencoder.scale.copy_(x.std())
    folder = tmp_path_factory.mktemp("autoencoders") / "bae"
    autoencoder.save_pretrained(folder)
    return folder


def untrained(config: BAEConfig | ReLUConfig, seed: int = 0) -> Autoencoder:
    autoencoder = build_autoencoder(config)
    autoencoder.reset_parameters(torch.Generator().manual_seed(seed))
    return autoencoder.eval()


@pytest.fixture
def serve() -> Iterator:
    """Start a judge server with a script; it ends with the test."""
    with ExitStack() as stack:
        yield lambda script, port=0: stack.enter_context(JudgeServer(script, port))


__all__ = ["Script"]
