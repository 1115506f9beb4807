"""What identifies an autoencoder to the codes that it made."""

from pathlib import Path

import pytest
import torch
import xxhash

from bae_ray.autoencoders import BAEConfig, build_autoencoder, load_autoencoder
from bae_ray.autoencoders.bae import BinaryAutoencoder
from bae_ray.autoencoders.checkpoint import encoder_hash
from bae_ray.compression import compress, compress_activations, decompress_activations, model_hash
from bae_ray.errors import ForeignModelError

CONFIG = BAEConfig(d_in=6, d_latent=16)
x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))


class LaterConfig(BAEConfig):
    """The config of a later version, with an option more."""

    option: float = 0.5
    """An option of training."""


def made(config: BAEConfig = CONFIG) -> BinaryAutoencoder:
    autoencoder = BinaryAutoencoder(config).requires_grad_(False).eval()
    autoencoder.reset_parameters(torch.Generator().manual_seed(1))
    autoencoder.prior.fill_(0.3)
    return autoencoder


@pytest.mark.parametrize(
    "config", [LaterConfig(d_in=6, d_latent=16), BAEConfig(d_in=6, d_latent=16, gradient="release")]
)
def test_codes_stay_readable_where_only_the_training_differs(config: BAEConfig) -> None:
    data = compress_activations(made(), x)
    assert torch.equal(decompress_activations(made(config), data), decompress_activations(made(), data))


@pytest.mark.parametrize("name", ["W_dec", "b_dec", "mean", "scale"])
def test_another_decoder_is_refused(name: str) -> None:
    data, other = compress_activations(made(), x), made()
    other.state_dict()[name].view(-1)[-1] += 0.5
    with pytest.raises(ForeignModelError):
        decompress_activations(other, data)
    assert encoder_hash(other) == encoder_hash(made())


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "prior"])
def test_another_encoder_is_told_from_it_where_codes_are_made(name: str) -> None:
    other = made()
    other.state_dict()[name].view(-1)[-1] += 0.5
    assert model_hash(other) == model_hash(made())
    assert encoder_hash(other) != encoder_hash(made())


def test_the_widths_are_part_of_it() -> None:
    hashes = {
        model_hash(build_autoencoder(BAEConfig(d_in=6, d_latent=d, bits_per_feature=bits)))
        for d, bits in ((16, 1), (16, 2), (32, 2))
    }
    assert len(hashes) == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float32])
def test_codes_stay_readable_where_the_weights_are_stored_in_another_type(tmp_path: Path, dtype: torch.dtype) -> None:
    """Earlier versions kept the type of the file, and hashed the numbers as they are in it."""
    stored = made().to(dtype)
    stored.save_pretrained(tmp_path)
    digest = xxhash.xxh3_128(b"bae 6 16 16")
    for name in ("W_dec", "b_dec", "mean", "scale"):
        tensor = stored.state_dict()[name]
        digest.update(f"{name} {dtype} {tuple(tensor.shape)}".encode())
        digest.update(bytes(tensor.reshape(-1).view(torch.uint8).tolist()))
    code = (torch.rand(20, 16, generator=torch.Generator().manual_seed(2)) < 0.3).to(torch.uint8)
    data = compress(code, stored.prior.float(), model_hash=digest.hexdigest())
    expected = code.double() @ stored.W_dec.double() + stored.b_dec.double()
    loaded = load_autoencoder(tmp_path)
    for known in (None, model_hash(loaded)):
        found = decompress_activations(loaded, data, known_hash=known)
        assert torch.allclose(found.double(), expected, rtol=0, atol=1e-5)
    again = load_autoencoder(tmp_path)
    assert torch.equal(decompress_activations(again, compress_activations(loaded, x)), loaded(x).x_hat)
    loaded.b_dec.data[0] += 0.5
    with pytest.raises(ForeignModelError):
        decompress_activations(loaded, data)
