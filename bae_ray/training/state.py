"""The saved state of an unfinished training: one safetensors file, from which it resumes exactly."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bae_ray.errors import CheckpointError
from bae_ray.files import at_hand, atomic_path

KEY = "training"


def save_state(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON-serialisable facts."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(kept, temporary, {KEY: json.dumps(facts)})


def load_state(path: Path, identity: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts; None where there is no file or `facts["identity"]` is another training's.

    Raises `CheckpointError` for a file that cannot be read.
    """
    if not at_hand(path).exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is not the state of a training ({error}). Delete it: the training then starts anew."
        ) from error
    return (tensors, facts) if facts.get("identity") == identity else None
