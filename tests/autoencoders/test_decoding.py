import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.autoencoders.bae import decode_varying


def gradients(decoded: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a function of the output that depends on every entry of it."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(decoded.shape, generator=generator, dtype=decoded.dtype)
    return torch.autograd.grad((weights * decoded + decoded.square()).sum(), inputs)


@given(
    n=st.integers(1, 9), f=st.integers(1, 30), d=st.integers(1, 5), members=st.integers(0, 3),
    rate=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]), seed=st.integers(0, 1000),
)  # fmt: skip
@settings(deadline=None)
def test_it_is_the_plain_product(n: int, f: int, d: int, members: int, rate: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    lead = (members,) if members else ()

    def draw(*shape: int) -> Tensor:
        return torch.randn(*lead, *shape, generator=generator, dtype=torch.float64)

    constant = draw(1, f)  # any number, not only a bit
    varies = (torch.rand(*lead, 1, f, generator=generator) < rate).expand(*lead, n, f)
    latents = torch.where(varies, draw(n, f), constant).requires_grad_()
    weight, bias = draw(f, d).requires_grad_(), draw(d).requires_grad_()
    expected = latents @ weight + bias.unsqueeze(-2)
    found = decode_varying(latents, weight, bias)
    torch.testing.assert_close(found, expected)
    for ours, plain in zip(
        gradients(found, latents, weight, bias), gradients(expected, latents, weight, bias), strict=True
    ):
        torch.testing.assert_close(ours, plain)


def test_under_autocast_it_is_as_exact_as_the_plain_product():
    generator = torch.Generator().manual_seed(0)
    latents = (torch.rand(64, 100, generator=generator) < 0.5).float()
    latents[:, 20:] = latents[0, 20:]
    latents.requires_grad_()
    weight = torch.randn(100, 16, generator=generator, requires_grad=True)
    bias = torch.randn(16, generator=generator, requires_grad=True)
    exact = gradients(latents @ weight + bias, latents, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = decode_varying(latents.bfloat16(), weight, bias)
    assert found.dtype == torch.bfloat16
    for ours, wanted in zip(gradients(found, latents, weight, bias), exact, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, wanted, rtol=0.05, atol=0.05 * wanted.abs().max().item())


@pytest.mark.parametrize("training", [True, False])
def test_reconstructions_do_not_depend_on_the_mode(training: bool):
    autoencoder = build_autoencoder(BAEConfig(d_in=6, bits_per_feature=2)).train(training)
    with torch.no_grad():
        autoencoder.get_parameter("b_enc")[4:] = 100.0
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    code = autoencoder.encode(x)
    features = (code[:, 0::2] + 2 * code[:, 1::2]) / 3
    torch.testing.assert_close(autoencoder.decode(code), features @ autoencoder.W_dec + autoencoder.b_dec)
