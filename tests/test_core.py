import subprocess
import sys

USE_WITHOUT_RAY = """
import sys
for missing in ("ray", "matplotlib", "tyro"):
    sys.modules[missing] = None
import torch
from bae_ray import ActivationStore, load_autoencoder, results, train
from bae_ray.activations.compute import ShardComputer
from bae_ray.activations.export import export_cells
from bae_ray.activations.writer import StoreWriter
from bae_ray.autoencoders import BAEConfig
from bae_ray.compression import compress_activations, decompress_activations
from bae_ray.training.config import TrainingConfig
from bae_ray.training.run_execution import execute_run
trained = train(torch.randn(64, 4), BAEConfig(), TrainingConfig(epochs=2, batch_size=16))
container = compress_activations(trained.autoencoder, torch.randn(9, 4))
assert decompress_activations(trained.autoencoder, container).shape == (9, 4)
print(trained.all.n)
"""


def test_the_core_works_without_ray():
    done = subprocess.run([sys.executable, "-c", USE_WITHOUT_RAY], capture_output=True, text=True, check=False)
    assert done.stdout == "64\n", done.stderr
