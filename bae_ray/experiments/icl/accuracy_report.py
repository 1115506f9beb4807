"""The results of in-context-learning prompts: accuracy over the number of demonstrations (the paper's Fig. 7)."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.accuracy import accuracy
from bae_ray.analysis.claims import claim, trend
from bae_ray.report.results_writer import Results
from bae_ray.report.terminal import table_of

COLORS = {"sampled": "tab:blue", "fixed": "tab:orange"}
MEASURES = {"label_accuracy": ("label_low", "label_high", "-"), "full_accuracy": ("full_low", "full_high", "--")}
NAMES = {"label_accuracy": "among the labels", "full_accuracy": "in the whole vocabulary"}
NOTES = [
    (
        "An answer is the model's likeliest next token after the prompt: among the labels' first tokens, or in the "
        "whole vocabulary. Bars and ranges are 95 % intervals (Wilson). Chance is one over the number of labels; "
        "majority is the share of the commonest label among the queries."
    ),
    (
        "sampled: each query has demonstrations of its own, drawn at random, never its own text. fixed: the first k of "
        "the corpus demonstrate every query, as in the paper's released code; leaked counts the prompts whose query is "
        "one of its own demonstrations."
    ),
]


def accuracy_table(stores: Sequence[ActivationStore]) -> pd.DataFrame:
    """A row per store of in-context-learning prompts: how they were made, their accuracies, baselines and seed."""
    rows: list[dict[str, object]] = []
    for store in stores:
        given, texts = store.manifest.request.input, store.texts
        measured = accuracy(store.predictions, len(given["label_tokens"]))
        leaked = sum(query in shown for query, shown in zip(texts["query"], texts["demonstrations"], strict=True))
        setting = {"model": store.manifest.request.model["name"], "demonstrations": given["demonstrations"]}
        mean = store.manifest.tokens / store.manifest.texts
        rows.append({**setting, "k": given["k"], **measured._asdict(), "leaked": leaked, "mean_tokens": mean,
                     "seed": given["seed"]})  # fmt: skip
    return pd.DataFrame(rows).sort_values(["demonstrations", "k"], ascending=[False, True], ignore_index=True)


def accuracy_figure(table: pd.DataFrame) -> Figure:
    """Accuracy against k: a colour for each way of choosing demonstrations, chance and majority as grey lines."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for demonstrations, runs in table.groupby("demonstrations", sort=False):
        for measure, (low, high, line) in MEASURES.items():
            bars = [runs[measure] - runs[low], runs[high] - runs[measure]]
            style = {"color": COLORS[str(demonstrations)], "linestyle": line, "marker": "o", "capsize": 3}
            label = f"{demonstrations}, {NAMES[measure]}"
            axes.errorbar(runs["k"], runs[measure], bars, label=label, **style)
    axes.axhline(table["chance"].iloc[0], color="grey", linewidth=0.8, linestyle=":", label="chance")
    axes.axhline(table["majority"].max(), color="grey", linewidth=0.8, linestyle="-.", label="majority")
    axes.set_xticks(sorted(table["k"].unique()))
    axes.set_ylim(0, 1)
    axes.set(xlabel="Demonstrations k", ylabel="Accuracy")
    n = ", ".join(map(str, table["n"].unique()))
    axes.set_title(f"{', '.join(table['model'].unique())}; {n} prompts per k")
    axes.legend(fontsize="small")
    return figure


def compare(table: pd.DataFrame) -> list[str]:
    """The paper's Fig. 7 beside what was found, for each way of choosing demonstrations."""
    lines: list[str] = []
    for demonstrations, runs in table.groupby("demonstrations", sort=False):
        found = trend(runs, "k", ["demonstrations"], "label_accuracy")
        paper = f"accuracy rises with k ({demonstrations} demonstrations)"
        lines.append(claim(paper, found, "rises", "k", runs, "accuracy among the labels"))
    return lines


def accuracy_results(stores: Sequence[ActivationStore]) -> Results:
    """The results of these stores."""
    table = accuracy_table(stores)
    return Results(
        page="accuracy.html",
        title="In-context learning: accuracy over the number of demonstrations",
        tables={"accuracy.csv": table},
        figures={"accuracy.png": accuracy_figure(table)},
        printed=[_printed(table)],
        notes=NOTES,
        claims=compare(table),
    )


def _printed(table: pd.DataFrame) -> Table:
    columns = {
        "demonstrations": "{demonstrations}",
        "k": "{k}",
        "n": "{n}",
        "among the labels": "{label_accuracy:.3f} ({label_low:.2f}-{label_high:.2f})",
        "whole vocabulary": "{full_accuracy:.3f} ({full_low:.2f}-{full_high:.2f})",
        "chance": "{chance:.2f}",
        "majority": "{majority:.2f}",
        "leaked": "{leaked}",
        "seed": "{seed}",
    }
    return table_of("Accuracy of the model's answers, with 95 % intervals", table, columns, left=["demonstrations"])
