"""What the real sae_lens measures of our exports in a GPT-2: run by its own Python, given a folder.

In the folder lie model/ (transformers), tokens.safetensors, and ours/NAME, as we exported them. Written is
measured.json: per export its evaluation's cross-entropies and divergence, means over the tokens that have a next one.
"""

import json
import sys
from pathlib import Path

import torch
from sae_lens import SAE  # pyright: ignore[reportMissingImports]
from sae_lens.evals import get_recons_loss  # pyright: ignore[reportMissingImports]
from sae_lens.training.activation_scaler import ActivationScaler  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig  # pyright: ignore[reportMissingImports]
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights  # pyright: ignore[reportMissingImports]
from transformers import GPT2LMHeadModel


def main(root: Path) -> None:
    theirs = GPT2LMHeadModel.from_pretrained(root / "model").eval()
    config = HookedTransformerConfig(
        n_layers=theirs.config.n_layer, d_model=theirs.config.n_embd, n_ctx=theirs.config.n_positions,
        n_heads=theirs.config.n_head, d_head=theirs.config.n_embd // theirs.config.n_head,
        d_mlp=4 * theirs.config.n_embd, d_vocab=theirs.config.vocab_size, act_fn="gelu_new", normalization_type="LN",
        eps=theirs.config.layer_norm_epsilon, device="cpu",
    )  # fmt: skip
    model = HookedTransformer(config)
    plain = dict.fromkeys(("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"), False)
    model.load_and_process_state_dict(convert_gpt2_weights(theirs, config), **plain)
    tokens = load_file(root / "tokens.safetensors")["tokens"]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=1e-3, atol=1e-3)
        found = {}
        for folder in sorted((root / "ours").iterdir()):
            measured = get_recons_loss(SAE.load_from_disk(folder), model, ActivationScaler(), tokens, True, True)
            found[folder.name] = {
                "ce_clean": float(measured["ce_loss_without_sae"].mean()),
                "ce_spliced": float(measured["ce_loss_with_sae"].mean()),
                "ce_zero": float(measured["ce_loss_with_ablation"].mean()),
                "kl": float(measured["kl_div_with_sae"][:, :-1].mean()),
            }
    (root / "measured.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
