"""A training whose machine is lost goes on from its last state on another one."""

import json
from pathlib import Path

import pytest
import torch

from bae_ray.autoencoders import BAEConfig
from bae_ray.locations import local_path
from bae_ray.training import loop
from bae_ray.training.config import TrainingConfig
from bae_ray.training.run_execution import MetricsLog
from bae_ray.training.trainer import train_many
from bae_ray.working_copies import refresh
from tests.bucket import Server

TRAINING = TrainingConfig(epochs=12, batch_size=32, lr=1e-2, entropy_weight=1e-3, covariance_weight=1e-4)
LOST_AFTER = 7


class LostError(Exception):
    """Stands for the loss of a machine."""


def test_another_machine_goes_on_from_the_state_with_the_lines_before_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", 1)
    monkeypatch.setattr(loop, "SHARE_OF_TIME", 0)
    x, members = torch.randn(400, 6, generator=torch.Generator().manual_seed(1)), [(BAEConfig(), TRAINING)]
    uri, seen = server.bare_uri("bucket/state/run"), []

    def train(cache: str, lost_after: int | None = None) -> torch.Tensor:
        monkeypatch.setenv("BAE_RAY_CACHE", str(tmp_path / cache))
        run = local_path(uri)
        refresh(run)
        log = MetricsLog(run / "metrics.jsonl")

        def on_epoch(_: int, lines: list) -> None:
            log.append(lines)
            seen.append((cache, lines[-1].epoch))
            if lines[-1].epoch == lost_after:
                raise LostError

        (outcome,) = train_many(x, members, "cpu", on_epoch, checkpoint=run / "state.safetensors", checkpoint_every_s=0)
        assert not isinstance(outcome, Exception)
        return outcome.autoencoder.W_enc

    with pytest.raises(LostError):
        train("lost", LOST_AFTER)
    assert "state.safetensors" in server.names("bucket/state/run")
    found = train("another")
    (whole,) = train_many(x, members)
    assert not isinstance(whole, Exception)
    assert torch.equal(found, whole.autoencoder.W_enc)
    began = min(epoch for cache, epoch in seen if cache == "another")
    assert 1 < began <= LOST_AFTER
    lines = (local_path(uri) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 13))
    assert "state.safetensors" not in server.names("bucket/state/run")
