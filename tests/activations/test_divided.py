"""A model divided among devices gives the vectors that it gives on one."""

from pathlib import Path

import pytest
import torch
from accelerate.hooks import AlignDevicesHook
from pydantic import ValidationError

from bae_ray.activations.config import ExtractConfig
from bae_ray.activations.divided import device_map
from bae_ray.activations.extract import extract
from bae_ray.activations.loading import load_model, load_model_with_head
from bae_ray.activations.model import find_model
from bae_ray.activations.parts import find_blocks
from bae_ray.activations.store import ActivationStore
from tests.activations.odd_models import save_random

TOKENS = torch.tensor([[1, 5, 9, 2, 40, 7], [3, 3, 8, 60, 0, 0]])


def hidden_states(model: torch.nn.Module, device: str = "cpu") -> torch.Tensor:
    with torch.no_grad():
        found = model(TOKENS.to(device), output_hidden_states=True).hidden_states
    return torch.stack([state.cpu() for state in found])


def test_blocks_are_divided_in_order_and_the_rest_is_on_the_first(tiny_causal_model: Path):
    model = load_model_with_head(find_model(str(tiny_causal_model)), "float32", "cpu")
    placed = device_map(model, ["cuda:0", "cuda:1"])
    of_blocks = [placed[f"model.layers.{i}"] for i in range(len(find_blocks(model)))]
    assert of_blocks == ["cuda:0", "cuda:0", "cuda:1"]
    assert {device for name, device in placed.items() if ".layers." not in name} == {"cuda:0"}
    covered = {name for name, _ in model.named_parameters() if any(name.startswith(part) for part in placed)}
    assert covered == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "mixtral"])
def test_divided_among_two_devices_that_are_one_cpu(kind: str, tiny_model: Path, tmp_path: Path):
    folder = tiny_model if kind == "llama" else save_random(tiny_model, tmp_path / kind, kind, **SMALL[kind])
    source = find_model(str(folder))
    divided = load_model(source, "float32", "cpu", "cpu")
    assert any(isinstance(getattr(part, "_hf_hook", None), AlignDevicesHook) for part in find_blocks(divided))
    assert torch.equal(hidden_states(divided), hidden_states(load_model(source, "float32", "cpu")))


SMALL = {
    "gpt2": {"vocab_size": 61, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "gpt_neox": {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
                 "intermediate_size": 32},
    "mixtral": {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
                "num_key_value_heads": 2, "intermediate_size": 32, "num_local_experts": 2},
}  # fmt: skip


def test_two_gpus_for_each_worker(ray_cluster: None, tiny_config: ExtractConfig, tiny_store: Path, tmp_path: Path):
    """Both logical GPUs of this Ray, which are one CPU; the sites inside of blocks too."""
    config = tiny_config.model_copy(update={"gpus_per_worker": 2, "batch_tokens": 16_384})
    assert extract(config, tmp_path / "store").manifest.shards == ActivationStore.open(tiny_store).manifest.shards


@pytest.mark.parametrize("gpus", [1.5, -1])
def test_shares_that_no_worker_can_have_are_refused(tiny_config: ExtractConfig, gpus: float):
    with pytest.raises(ValidationError, match=r"1\.5 GPUs: expected a share of one GPU|greater than or equal"):
        ExtractConfig.model_validate({**tiny_config.model_dump(), "gpus_per_worker": gpus})


@pytest.mark.gpu
def test_divided_between_a_gpu_and_itself(tiny_model: Path):
    source = find_model(str(tiny_model))
    divided = hidden_states(load_model(source, "float32", "cuda:0", "cuda:0"), "cuda")
    torch.testing.assert_close(divided, hidden_states(load_model(source, "float32", "cpu")), rtol=1e-3, atol=1e-3)
