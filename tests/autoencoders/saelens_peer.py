"""What the real sae_lens makes of our exports, and autoencoders that it saves: run by its own Python, given a folder.

In the folder lie x.safetensors and ours/NAME, as we exported them. Written are results.safetensors into each of them,
latents and reconstruction of x, and theirs/NAME: autoencoders of random weights, with their results.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file, save_file

D_IN, D_SAE = 6, 24
AUTOENCODERS = {
    "standard": ["", "apply_b_dec"],
    "topk": ["", "apply_b_dec", "rescale", "apply_b_dec rescale"],
    "jumprelu": ["", "apply_b_dec"],
    "gated": ["", "apply_b_dec"],
    "transcoder": [""],
    # What we cannot represent
    "skip_transcoder": [""],
    "jumprelu_transcoder": [""],
    "abstopk": [""],
}
TRAINED_ONLY = {"batchtopk": ["", "apply_b_dec", "rescale"], "matryoshka_batchtopk": [""]}


def main(root: Path) -> None:
    x = load_file(root / "x.safetensors")["x"]
    for folder in sorted((root / "ours").iterdir()):
        write_results(SAE.load_from_disk(folder), x, folder)
    torch.manual_seed(0)
    for of, variants in {**AUTOENCODERS, **TRAINED_ONLY}.items():
        for variant in variants:
            folder = root / "theirs" / " ".join([of, variant]).strip()
            sae = build(of, variant)
            if of in TRAINED_ONLY:
                sae.save_inference_model(folder)
            else:
                sae.save_model(folder)
            write_results(SAE.load_from_disk(folder), x, folder)
    normalised = SAE.from_dict(config("standard", "") | {"normalize_activations": "layer_norm"})
    normalised.save_model(root / "theirs" / "layer_norm")


def config(of: str, variant: str) -> dict[str, Any]:
    extra: dict[str, Any] = {"d_out": D_IN} if "transcoder" in of else {}
    if "topk" in of:
        extra |= {"k": 3, "rescale_acts_by_decoder_norm": "rescale" in variant}
    if "matryoshka" in of:
        extra |= {"matryoshka_widths": [8, D_SAE]}
    return {
        "architecture": of,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "apply_b_dec_to_input": "apply_b_dec" in variant,
        "metadata": {"hook_name": "blocks.1.hook_resid_pre"},
        **extra,
    }


def build(of: str, variant: str) -> Any:
    """An autoencoder with random weights in every parameter."""
    sae = (TrainingSAE if of in TRAINED_ONLY else SAE).from_dict(config(of, variant))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        if of in TRAINED_ONLY:
            sae.topk_threshold.fill_(0.4)
    return sae


@torch.no_grad()
def write_results(sae: Any, x: torch.Tensor, folder: Path) -> None:
    latents = sae.encode(x)
    save_file({"latents": latents, "x_hat": sae.decode(latents)}, folder / "results.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
