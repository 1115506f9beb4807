"""Autoencoders read from folders of sparsify (EleutherAI; github.com/EleutherAI/sparsify, sparsify/sparse_coder.py)."""

from pathlib import Path

from bae_ray.autoencoders.architectures import config_read_from
from bae_ray.autoencoders.base import Autoencoder
from bae_ray.autoencoders.interop.weights import assemble, check_tensors, read_json, read_safetensors
from bae_ray.errors import CheckpointError

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"

_LAYOUT = {"encoder.weight": "F D", "encoder.bias": "F", "W_dec": "F D", "b_dec": "D"}
# What changes what is computed; the other fields are about training.
_EXPECTED = {"activation": "topk", "skip_connection": False, "transcode": False, "signed": False}


def import_sparsify(folder: str | Path) -> Autoencoder:
    """The top-k autoencoder in a folder of sparsify, with `cfg.json` and `sae.safetensors`, in evaluation mode.

    The b_dec that sparsify subtracts from the input is folded into the encoder's bias, in float64.

    Raises `CheckpointError` for damaged files, and for what cannot be represented here: groupmax, skip connections,
    transcoders with top-k, signed latents.
    """
    folder = Path(folder)
    file = folder / CONFIG_FILE
    config = read_json(file)
    for name, expected in _EXPECTED.items():
        if (found := config.get(name, expected)) != expected:
            raise CheckpointError(
                f"{name} is {found!r} in {file}; expected {expected!r}. bae_ray has no such autoencoder: train one of "
                "its own, or choose another of theirs."
            )
    for name in ("d_in", "k"):
        if type(config.get(name)) is not int:
            raise CheckpointError(f"{name} is {config.get(name)!r} in {file}; expected a whole number. Restore it.")
    d_latent = config.get("num_latents") or config["d_in"] * config.get("expansion_factor", 0)
    sizes = {"D": config["d_in"], "F": d_latent} if d_latent else {"D": config["d_in"]}
    tensors = read_safetensors(folder / WEIGHTS_FILE)
    sizes = check_tensors(tensors, _LAYOUT, folder / WEIGHTS_FILE, sizes)
    encoder, b_dec = tensors["encoder.weight"].T.double(), tensors["b_dec"].double()
    weights = {
        "W_enc": encoder,
        "b_enc": tensors["encoder.bias"].double() - b_dec @ encoder,
        "W_dec": tensors["W_dec"],
        "b_dec": b_dec,
    }
    return assemble(config_read_from("sparsify", "topk"), sizes, {"k": config["k"], "nonnegative": True}, weights, file)
