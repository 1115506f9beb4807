"""The fidelity of a run by plain hooks on a transformers model, text by text: an oracle."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaForCausalLM

from bae_ray.activations.store import ActivationStore
from bae_ray.autoencoders import load_autoencoder
from bae_ray.training.config import RunConfig

KINDS = ("clean", "spliced", "mean", "zero")


class NaiveFidelity:
    """Sums over the tokens of given texts, with one token's activation replaced or all of them."""

    def __init__(self, model: Path) -> None:
        self.model = LlamaForCausalLM.from_pretrained(model).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    @torch.no_grad()
    def of(self, folder: Path, store: ActivationStore, texts: dict[int, str], train: list[int]) -> dict[str, float]:
        """Means over tokens; `texts` by their number in the store, `train` are the rows that the mean is of."""
        run = RunConfig.model_validate_json((folder / "run.json").read_text())
        autoencoder, target, position = load_autoencoder(folder), run.target or run.cell, run.cell.position
        assert isinstance(position, int)
        block = self.model.model.layers[target.layer]
        place, before = {"residual": (block, True), "mlp_in": (block.mlp, True), "mlp_out": (block.mlp, False)}[
            target.site
        ]
        mean = store.matrix(target.layer, position, target.site)[train].mean(0)
        x = store.matrix(run.cell.layer, position, run.cell.site)
        sums: dict[str, float] = dict.fromkeys(("texts", "tokens", *KINDS, "kl", "agree"), 0.0)
        for number, text in texts.items():
            ids = self.tokenizer(text).input_ids
            if len(ids) < position + 2:
                continue
            sums["texts"] += 1
            new = {"spliced": autoencoder(x[number][None]).x_hat[0], "mean": mean, "zero": torch.zeros(len(mean))}
            logits = {"clean": self.model(torch.tensor([ids])).logits[0]}
            logits |= {kind: self._spliced(ids, place, before, position, value) for kind, value in new.items()}
            for t in range(position, len(ids) - 1):
                logp = {kind: torch.log_softmax(values[t].double(), 0) for kind, values in logits.items()}
                for kind in KINDS:
                    sums[kind] -= float(logp[kind][ids[t + 1]])
                sums["kl"] += float((logp["clean"].exp() * (logp["clean"] - logp["spliced"])).sum())
                sums["agree"] += float(logp["clean"].argmax() == logp["spliced"].argmax())
                sums["tokens"] += 1
        counts = {name: sums.pop(name) for name in ("texts", "tokens")}
        return counts | {name: value / counts["tokens"] for name, value in sums.items()}

    def _spliced(self, ids: list[int], place: nn.Module, before: bool, position: int, value: Tensor) -> Tensor:
        """Logits [T, V] with `value` [D] in place of the activation of one token."""

        def changed(hidden: Tensor) -> Tensor:
            hidden = hidden.clone()
            hidden[0, position] = value
            return hidden

        def pre(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (changed(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": changed(kwargs["hidden_states"])}

        def post(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            return changed(output)

        handle = place.register_forward_pre_hook(pre, with_kwargs=True) if before else place.register_forward_hook(post)
        try:
            return self.model(torch.tensor([ids])).logits[0]
        finally:
            handle.remove()
