"""The model card of a run, as the Hugging Face hub reads it: what was measured of it, and what was not."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bae_ray.autoencoders.architectures import architecture_of
from bae_ray.report.published_cards import read_cards
from bae_ray.training.config import RunConfig
from bae_ray.training.results import read_fidelity
from bae_ray.training.run_folder import RunResult

UNKNOWN = "not measured"
PAPER = "https://arxiv.org/abs/2509.20997"
LIBRARY = "bae_ray"
CARD_FILE = "README.md"
ABOUT = (
    "An autoencoder of a language model's hidden states, trained with bae_ray ([paper]({paper})): {d_in} numbers in, "
    "{d_latent} latents. Layer l is `hidden_states[l]` of transformers; 0 is the embeddings."
)
LOADING = """```python
from bae_ray import load_autoencoder

autoencoder = load_autoencoder("{name}")
code = autoencoder.encode(x)  # x: [n, {d_in}]
```

`bae-ray serve --registry FOLDER`, where FOLDER is the folder that holds this one, serves it over HTTP."""
READING = (
    "An entropy is an upper bound, and two autoencoders' are comparable at like FVU only. FVU is the fraction of "
    "variance unexplained. Square brackets hold 95 % intervals."
)


class Origin(NamedTuple):
    """What a run's own folder does not say."""

    corpus: str | None
    """The texts that the activations are of; None where that is not known."""
    texts: int | None
    """How many texts these are, those that are held out among them."""
    licence: str | None
    """Of the weights, as the hub abbreviates it, such as apache-2.0."""
    base_model: str | None
    """Id of the language model on the hub; None for one that has none."""


def model_card(folder: Path, run: RunConfig, result: RunResult, origin: Origin, name: str) -> str:
    """The card of a finished run's folder, which is to be loaded by `name`. What no file says is told as unknown."""
    architecture = architecture_of(run.autoencoder)
    base = origin.base_model
    front = {
        **({"license": origin.licence} if origin.licence else {}),
        **({"base_model": base} if base else {}),
        "library_name": LIBRARY,
        "tags": ["autoencoder", "interpretability", "sparse-autoencoder", architecture.name],
    }
    where = f"layer {result.layer}, site {result.site}, position {result.position}"
    cell = f"{_literal(base or result.model)}, {where}"
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {architecture.label} of {cell}",
        ABOUT.format(paper=PAPER, d_in=result.d_in, d_latent=result.d_latent),
        LOADING.format(name=name, d_in=result.d_in),
        "## Measures",
        _table(_measures(folder, result, architecture.is_binary)),
        READING,
        "## Features named by a language model",
        *_judged(folder),
        "## Training",
        _table(_training(run, result, origin)),
        f"Autoencoder: `{run.autoencoder.model_dump_json()}`",
        f"Training: `{run.training.model_dump_json()}`",
    ]
    return "\n\n".join(sections) + "\n"


def _measures(folder: Path, result: RunResult, is_binary: bool) -> list[tuple[str, str]]:
    n_val = f"{result.n_val} held-out samples"
    bits = [
        ("Bits, as the paper counts them: a sum over latents",
         _within(result.entropy_bits, result.entropy_low, result.entropy_high, 1)),
        ("The same, over held-out samples alone",
         _within(result.entropy_bits_val, result.entropy_low_val, result.entropy_high_val, 1)),
        ("Tree bits: what latents do together counts once",
         _within(result.tree_bits, result.tree_low, result.tree_high, 1)),
        ("Held-out bits: what a held-out sample takes under the tree",
         _within(result.heldout_bits, result.heldout_low, result.heldout_high, 1)),
    ]  # fmt: skip
    rows = bits if is_binary else []
    rows += [
        (f"FVU on {result.n_train} training samples", _number(result.fvu_train, 3)),
        (f"FVU on {n_val}", _number(result.fvu_val, 3)),
        ("L0: latents active per sample", _number(result.l0, 1)),
        ("Latents that never fire", _number(result.dead, 3)),
    ]
    fidelity = read_fidelity(folder)
    if fidelity is None:
        return [*rows, ("Cross-entropy recovered", f"{UNKNOWN}; `bae-ray fidelity` does")]
    texts = f"{fidelity.fidelity_texts} held-out texts"
    recovered = _within(fidelity.ce_recovered, fidelity.ce_recovered_low, fidelity.ce_recovered_high, 3)
    above_mean = _within(fidelity.ce_recovered_mean, fidelity.ce_recovered_mean_low, fidelity.ce_recovered_mean_high, 3)
    return [
        *rows,
        (f"Cross-entropy recovered against zeros, {texts}", recovered),
        (f"Cross-entropy recovered against the mean, {texts}", above_mean),
        ("KL divergence of the next token, nats", _within(fidelity.kl, fidelity.kl_low, fidelity.kl_high, 4)),
    ]


def _judged(folder: Path) -> list[str]:
    _, about = read_cards(folder)
    if not about:
        return [f"Scores and the judge's trust: {UNKNOWN}. `bae-ray comsem` does."]
    summary, judge = about["summary"], about["judge"]
    accuracy = _within(judge["balanced_accuracy"], judge.get("accuracy_low"), judge.get("accuracy_high"), 2)
    low, high = summary.get("above_chance_low"), summary.get("above_chance_high")
    rows = [
        ("Judge", _literal(judge["model"])),
        (f"Its balanced accuracy on {judge.get('pairs', 0)} labelled pairs; .5 is chance", accuracy),
        ("Features scored", str(summary["scored"])),
        ("Mean score", _number(summary["score"], 3)),
        ("Its chance level: the same names on another feature's tokens", _number(summary["chance"], 3)),
        ("Score above chance",
         _within(summary.get("above_chance"), low, high, 3)),
    ]  # fmt: skip
    warnings = [f"Of this judge: {_literal(warning)}." for warning in judge.get("warnings", ())]
    return [_table(rows), *warnings]


def _training(run: RunConfig, result: RunResult, origin: Origin) -> list[tuple[str, str]]:
    base = f" ([{origin.base_model}](https://huggingface.co/{origin.base_model}))" if origin.base_model else ""
    samples = f"{result.n_train}, and {result.n_val} held out"
    converged = {True: "yes", False: "no: loss, bits or FVU still changed at the end", None: UNKNOWN}
    return [
        ("Language model", f"{_literal(result.model)}{base}"),
        ("Layer, site, position", f"{result.layer}, {result.site}, {result.position}"),
        ("Corpus", _literal(origin.corpus) if origin.corpus else "not known"),
        ("Texts", "not known" if origin.texts is None else str(origin.texts)),
        ("Training samples", samples),
        ("Epochs", "not known" if result.epochs is None else str(result.epochs)),
        ("Converged", converged[result.converged]),
        ("Seed", str(result.seed)),
        ("Run", f"`{run.id}`"),
        ("Licence of the weights", origin.licence or "not stated"),
    ]


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


def _number(value: Any, decimals: int) -> str:
    known = isinstance(value, int | float) and not math.isnan(value)
    return f"{value:.{decimals}f}" if known else UNKNOWN


def _within(value: Any, low: Any, high: Any, decimals: int) -> str:
    ends = _number(low, decimals), _number(high, decimals)
    mean = _number(value, decimals)
    return mean if UNKNOWN in (mean, *ends) else f"{mean} [{ends[0]}, {ends[1]}]"


def _literal(text: object) -> str:
    """A text of others', which is no Markdown and no HTML in the card."""
    plain = " ".join(str(text).replace("`", "'").replace("|", "/").split())
    return f"`{plain}`"
