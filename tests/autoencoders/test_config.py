from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from bae_ray.autoencoders import AutoencoderConfig, BAEConfig, build_autoencoder, check_architecture
from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.errors import InvalidInputError


def smallest(architecture: str, **fields: Any):
    """A config of any architecture with 8 latents of 4 inputs."""
    if architecture in ("topk", "batchtopk"):
        fields = {"k": 3, **fields}
    return ARCHITECTURES[architecture].config(d_in=4, expansion=2, **fields)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_json_gives_the_config_back(architecture: str):
    config = smallest(architecture, d_latent=7)
    read = TypeAdapter(AutoencoderConfig).validate_json(config.model_dump_json())
    assert read == config
    assert type(read) is type(config)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_mistyped_option_is_refused(architecture: str):
    with pytest.raises(ValidationError, match="expansoin"):
        ARCHITECTURES[architecture].config.model_validate({"expansoin": 4})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_config_does_not_change(architecture: str):
    with pytest.raises(ValidationError, match="frozen"):
        smallest(architecture).expansion = 3


@pytest.mark.parametrize(
    ("architecture", "option", "value"),
    [
        ("bae", "expansion", 4),
        ("bae", "gradient", "sigmoid"),
        ("bae", "bits_per_feature", 1),
        ("topk", "k", 15),
        ("gated", "threshold", 0.5),
        ("transcoder", "target_site", "mlp_out"),
    ],
)
def test_defaults_are_the_papers(architecture: str, option: str, value: Any):
    assert getattr(ARCHITECTURES[architecture].config(), option) == value


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("bae", {"d_in": 0}),
        ("bae", {"expansion": 0}),
        ("bae", {"d_latent": 0}),
        ("bae", {"gradient": "tanh"}),
        ("bae", {"bits_per_feature": 0}),
        ("bae", {"bits_per_feature": 9}),
        ("bae", {"standardize": True}),  # burstiness has one scale already
        ("topk", {"k": 0}),
        ("batchtopk", {"k": 0}),
        ("gated", {"threshold": -0.1}),
        ("gated", {"threshold": float("nan")}),
        ("jumprelu", {"initial_threshold": 0.0}),
        ("jumprelu", {"bandwidth": 0.0}),
        ("gated_sae", {"encoder_bias": False}),
    ],
)
def test_values_that_cannot_work_are_refused(architecture: str, fields: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        ARCHITECTURES[architecture].config(**fields)


def test_widths():
    assert BAEConfig(d_in=6).widths() == (6, 24)
    assert BAEConfig(d_in=6, expansion=3).widths() == (6, 18)
    assert BAEConfig(d_in=6, expansion=3, d_latent=7).widths() == (6, 7)


@pytest.mark.parametrize("check", [build_autoencoder, check_architecture])
class TestWidthsThatDoNotGoTogether:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_good_ones_pass(self, check: Any, architecture: str):
        check(smallest(architecture))

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_d_in_is_needed(self, check: Any, architecture: str):
        with pytest.raises(InvalidInputError, match="d_in is not set"):
            check(ARCHITECTURES[architecture].config())

    @pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
    def test_no_more_latents_are_kept_than_there_are(self, check: Any, architecture: str):
        check(smallest(architecture, k=8))
        with pytest.raises(InvalidInputError, match="k is 9 but there are only 8 latents"):
            check(smallest(architecture, k=9))

    def test_bits_divide_the_latents(self, check: Any):
        check(smallest("bae", bits_per_feature=4))
        with pytest.raises(InvalidInputError, match="d_latent is 8, which 3 bits per feature do not divide"):
            check(smallest("bae", bits_per_feature=3))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_d_latent_replaces_the_expansion(architecture: str):
    autoencoder = build_autoencoder(smallest(architecture, d_latent=7))
    assert (autoencoder.W_enc.shape, autoencoder.W_dec.shape) == ((4, 7), (7, 4))


def test_checking_takes_no_memory():
    huge = BAEConfig(d_in=1 << 20, expansion=1 << 10)  # weights of 8 PB
    with pytest.raises(RuntimeError, match="memory"):
        build_autoencoder(huge)
    check_architecture(huge)
