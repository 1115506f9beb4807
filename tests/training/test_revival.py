import pytest
import torch

from bae_ray.activations.rows import Rows
from bae_ray.autoencoders import ArchitectureConfig, GatedSAEConfig
from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.training.config import TrainingConfig
from bae_ray.training.revival import revive
from bae_ray.training.samples import Batch, Batches
from bae_ray.training.stack import Stack

DEAD = [0, 3, 7]


@pytest.mark.parametrize("architecture", [one.config for one in ARCHITECTURES.values() if one.reconstructs == "input"])
def test_dead_latents_start_anew(architecture: type[ArchitectureConfig]):
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    data = Batches(Rows([x]), None, lambda rows: rows, lambda rows: rows, torch.device("cpu"))
    config = architecture.model_validate(
        {"d_in": 6, "expansion": 2} | ({"k": 2} if "k" in architecture.model_fields else {})
    )
    stack = Stack(config, [TrainingConfig(lr=1e-3)], torch.device("cpu"), 10)
    stack.step(Batch(x, x), stack.weights(1), frozenset(stack.names), 0)
    member = stack.members[0]
    bias = "b_gate" if architecture is GatedSAEConfig else "b_enc"
    with torch.no_grad():
        # Every other latent fires on some sample.
        member.autoencoder.get_parameter(bias).fill_(2.0)[DEAD] = -1e6
    before = {name: tensor.clone() for name, tensor in member.autoencoder.state_dict().items()}
    assert revive(member, data, 32, torch.Generator().manual_seed(1)) == len(DEAD)
    member.autoencoder.eval()  # in training, a batchtopk keeps what is largest in the batch
    fires = member.autoencoder.activate(member.autoencoder.pre_activations(x)) != 0
    assert fires[:, DEAD].any(0).all()
    alive = [latent for latent in range(12) if latent not in DEAD]
    after = member.autoencoder.state_dict()
    for name, dim in (("W_enc", 1), ("W_dec", 0), (bias, 0)):
        kept = torch.tensor(alive)
        assert torch.equal(after[name].index_select(dim, kept), before[name].index_select(dim, kept))
        assert not torch.equal(after[name], before[name])
        parameter = member.autoencoder.get_parameter(name)
        moments = member.optimizer.state[parameter]["exp_avg"].index_select(dim, torch.tensor(DEAD))
        assert not moments.any()
    # The stack computes with the revived weights: the members are views of it.
    assert torch.equal(stack.module.get_parameter("W_enc")[0], after["W_enc"])
    assert revive(member, data, 32, torch.Generator().manual_seed(1)) == 0
