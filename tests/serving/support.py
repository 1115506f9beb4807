"""What the tests of the service share: its limits, and the making of encoders."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from bae_ray.autoencoders import Autoencoder, BAEConfig, ReLUConfig, build_autoencoder, load_autoencoder
from bae_ray.compression import fit_tree
from bae_ray.files import checksum
from bae_ray.serving.config import LimitsConfig, ServiceConfig

D, F = 16, 44  # no multiple of 8: the last byte of a packed code is not full
KEY, NARROW_KEY = "k" * 32, "n" * 32
LIMITS = LimitsConfig(
    max_body_bytes=1 << 20,
    max_response_bytes=1 << 20,
    max_rows=256,
    max_texts=4,
    max_tokens=32,
    max_new_tokens=4000,
    max_features=40,
    body_timeout_s=8,
    deadline_s=60,
    max_inflight=64,
    max_inflight_bytes=8 << 20,
)


class Served(NamedTuple):
    """The service under test."""

    url: str
    registry: Path
    config: ServiceConfig


def make_encoder(
    folder: Path, seed: int = 0, architecture: str = "bae", change: Callable[[Autoencoder], Any] = lambda _: None
) -> Autoencoder:
    """An encoder with random weights, a normalisation, and a prior that is not flat; `change` is done to it at last."""
    torch.manual_seed(seed)
    config = BAEConfig(d_in=D, d_latent=F) if architecture == "bae" else ReLUConfig(d_in=D, d_latent=F)
    made = build_autoencoder(config)
    with torch.no_grad():
        made.mean.copy_(torch.randn(D))
        made.scale.fill_(2.0)
        made.prior.copy_(torch.rand(F) ** 3)
        change(made)
    made.save_pretrained(folder)
    return load_autoencoder(folder)


def with_tree(made: Autoencoder) -> None:
    """Give an encoder a tree over its latents: of codes of which a third are copies of their neighbours."""
    code = torch.rand(300, F) < made.prior.clamp(0.02, 0.98)
    code[:, 1::3] = code[:, ::3][:, : code[:, 1::3].shape[1]]
    made.tree = fit_tree(code)


def make_run(folder: Path, model: str, architecture: str = "bae") -> None:
    """A run's directory as `bae-ray train` leaves it, as far as the service reads it."""
    make_encoder(folder, 1, architecture)
    result = {"model": model, "layer": 2, "site": "residual", "position": "all", "fvu_val": 0.25, "entropy_bits": 9.5}
    (folder / "run.json").write_text("{}")
    (folder / "result.json").write_text(json.dumps(result))


def write_cards(folder: Path, record: dict[str, Any], **about: Any) -> None:
    """The card of feature 3 as ComSem publishes it, its record beside it; `about` in place of what the file says."""
    card = {
        "index": 3, "status": "scored", "explanation": "<b>numbers</b>", "score": 0.5, "n": 8, "chance": 0.25,
        "p_yes": None, "problems": 0, "rate": 0.1, "entropy": 0.4, "count": 20, "error": "",
        "tokens": [{"pieces": ["a", " b"], "values": [0.5, 1.0], "at": 1}],
    }  # fmt: skip
    names = ("activated", "n_features", "n_tokens", "n_sentences", "scored", "interpretable", "judged", "unreadable",
             "refusals")  # fmt: skip
    scores = ("score", "chance", "above_chance", "above_chance_low", "above_chance_high", "random")
    summary = {"method": "bae", **dict.fromkeys(names, 1), **dict.fromkeys(scores, 0.5)}
    judge = {"model": "judge", "pairs": 230, "warnings": ["useless"], "yes_bias": 0.0}
    judge |= dict.fromkeys(("balanced_accuracy", "accuracy_low", "accuracy_high", "self_agreement"), 0.5)
    table = pa.table({"feature": [3], "card": [json.dumps(card)], "record": [json.dumps(record)]})
    said = {"summary": summary, "judge": judge, "weights": checksum(folder / "model.safetensors"), **about}
    pq.write_table(table.replace_schema_metadata({b"bae_ray": json.dumps(said)}), folder / "cards.parquet")


def replicas(deployment: str = "", application: str = "bae_ray") -> list[psutil.Process]:
    """The processes of the service that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(f"ray::ServeReplica:{application}:{deployment}"):
                found.append(process)
    return found


def until(look: Callable[[], Any], seconds: float = 20) -> Any:
    """What `look` gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.1)
    return found
