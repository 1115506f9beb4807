from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from bae_ray.activations.model import find_model
from bae_ray.interventions.editable_model import EditableModel
from bae_ray.steering.steered_model import SteeredModel
from tests.activations.odd_models import SIZES, save_random
from tests.steering.naive import Naive

BLOCKS = {"llama": "model.layers", "gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}


@pytest.fixture(scope="session", params=[*BLOCKS])
def pair(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SteeredModel, Naive]:
    """A random model of an architecture, and the same as transformers runs it, text by text."""
    kind: str = request.param
    folder = save_random(tiny_model, tmp_path_factory.mktemp("steered") / kind, kind, **SIZES)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder).eval()
    blocks = model.get_submodule(BLOCKS[kind])
    assert isinstance(blocks, nn.ModuleList)
    return SteeredModel(EditableModel(find_model(str(folder)))), Naive(model, blocks)


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Seventeen of 1 to 12 tokens."""
    generator = torch.Generator().manual_seed(3)
    lengths = [1, 12, 3, 3, 7, 5, 2, 9, 1, 4, 11, 6, 8, 10, 2, 5, 7]
    return [torch.randint(1, 61, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture(scope="session")
def vectors(prompts: list[list[int]]) -> Tensor:
    """One for each prompt."""
    return 3 * torch.randn(len(prompts), 16, generator=torch.Generator().manual_seed(4))
