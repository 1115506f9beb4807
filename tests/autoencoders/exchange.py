"""What the tests of the interchange formats share."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bae_ray.autoencoders import Autoencoder


def close(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


def architecture(autoencoder: Autoencoder) -> str:
    return json.loads(autoencoder.config.model_dump_json())["architecture"]


def released_state(golden: dict, kind: str = "bae") -> dict[str, Tensor]:
    state = golden["bae_state_dict"] if kind == "bae" else golden[f"sae_{kind}"]["state_dict"]
    return {name: torch.tensor(values) for name, values in state.items()}


def check_released(golden: dict, kind: str, autoencoder: Autoencoder) -> None:
    expected = golden["bae"] if kind == "bae" else golden[f"sae_{kind}"]
    latents, x_hat = autoencoder(torch.tensor(golden["x"]))
    if kind == "bae":
        assert latents.tolist() == expected["code"]
    else:
        torch.testing.assert_close(latents, torch.tensor(expected["latents"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(x_hat, torch.tensor(expected["reconstruction"]), rtol=0, atol=1e-5)


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "cfg.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))
