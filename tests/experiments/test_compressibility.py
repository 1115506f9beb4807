import numpy as np
import pytest
import torch

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import BAEConfig, build_autoencoder
from bae_ray.errors import InvalidInputError
from bae_ray.experiments.compression.compressibility import code_bits, distortion
from bae_ray.experiments.compression.quantization import mean_only, product, residual, scalar

D = 12


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out vectors about few centres, far from the origin."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(40, D)) * 3
    x = centres[generator.integers(0, 40, 3000)] + generator.normal(size=(3000, D)) * 0.3 + 5
    return x[:2560].astype(np.float32), x[2560:].astype(np.float32)


def test_distortion_by_its_formulas(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    train, x = vectors
    x_hat = scalar(train, x, 4).x_hat
    found = distortion(Rows([torch.from_numpy(x[:100]), torch.from_numpy(x[100:])]), x_hat)
    mean = x.mean(0, dtype=np.float64)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())

    assert found.mse == pytest.approx(((x - x_hat) ** 2).mean(), rel=1e-5)
    assert found.fvu == pytest.approx(((x - x_hat) ** 2).sum() / ((x - mean) ** 2).sum(), rel=1e-5)
    assert found.cosine == pytest.approx(cosine(x, x_hat), abs=1e-6)
    assert found.cosine_centred == pytest.approx(cosine(x - mean, x_hat - mean), abs=1e-6)


def test_more_bytes_less_distortion(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    train, x = vectors
    ways = [mean_only(train, x), product(train, x, 3), product(train, x, 6), scalar(train, x, 4), scalar(train, x, 8)]
    assert [way.bytes_per_vector for way in ways] == [0, 3, 6, 6, 12]
    errors = [distortion(torch.from_numpy(x), way.x_hat).fvu for way in ways]
    assert errors[0] == pytest.approx(1, abs=0.02)
    assert errors[0] > errors[1] > errors[2] > errors[4]
    assert errors[3] > errors[4]
    two = residual(train[:600], x, 2)
    assert two.bytes_per_vector == 2
    assert two.side_bytes == 2 * 256 * D * 4
    assert distortion(torch.from_numpy(x), two.x_hat).fvu < errors[0] / 5


def test_a_size_that_does_not_divide_the_width(vectors: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(InvalidInputError, match="5 bytes: expected a divisor of the width 12"):
        product(*vectors, 5)


def test_bits_of_codes() -> None:
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    autoencoder = build_autoencoder(BAEConfig(d_in=6, d_latent=20)).requires_grad_(False).eval()
    code = autoencoder.encode(x).double()
    rates = code.mean(0)
    prior = (rates * 0.5 + 0.2).float()
    found = code_bits(autoencoder, Rows([x[:1], x[1:]]), prior)
    torch.testing.assert_close(found.rates, rates)
    q = prior.double()
    own = -(code * rates.clamp(1e-300, 1).log2() + (1 - code) * (1 - rates).clamp(1e-300, 1).log2()).sum(1).mean()
    assert found.entropy == pytest.approx(float(own))
    assert found.cross_entropy == pytest.approx(float(-(code * q.log2() + (1 - code) * (1 - q).log2()).sum(1).mean()))
    assert found.cross_entropy > found.entropy
    assert code_bits(autoencoder, x, torch.zeros(20)).cross_entropy == float("inf")


def test_the_same_vectors_are_quantised_alike_by_any_number_of_threads():
    """Of ranges by quantiles faiss's threads made something else each time."""
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    train, x = (rng.normal(size=(n, 16)).astype(np.float32) for n in (900, 300))
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(4)
    try:
        assert len({scalar(train, x, 4).x_hat.tobytes() for _ in range(50)}) == 1
        assert faiss.omp_get_max_threads() == 4
    finally:
        faiss.omp_set_num_threads(threads)
