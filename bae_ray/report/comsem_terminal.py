"""ComSem on the terminal: the table, the judge's own test beside it, and what a run would cost."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from bae_ray.comsem.config import JudgeConfig
from bae_ray.comsem.cost_estimate import Plan
from bae_ray.comsem.judge_check import JudgeCheck
from bae_ray.comsem.judge_prompts import PROMPT_VERSION
from bae_ray.comsem.results_folder import Outcome
from bae_ray.comsem.usage import Usage

WIDTH = 150


def print_summary(outcome: Outcome) -> None:
    """Print Table 1's columns with their intervals and controls, and how far the judge can be trusted."""
    printed = Table(title="ComSem: scores with 95 % intervals over features", title_justify="left")
    for column in ("method", "layer", "L_r", "||Cov||", "Act.", "FI#", "Score", "chance", "Score - chance", "random"):
        printed.add_column(column, justify="left" if column == "method" else "right")
    for row in outcome.summary.to_dict("records"):
        printed.add_row(
            row["method"],
            str(row["layer"]),
            _number(row["mse"], ".2e"),
            _number(row["spectral_norm"], ".3f"),
            str(row["activated"]),
            str(row["interpretable"]),
            *(_interval(row, name) for name in ("score", "chance", "above_chance", "random")),
        )
    console = Console()
    Console(width=max(console.width, WIDTH)).print(printed)
    for row in outcome.summary.to_dict("records"):
        print(
            f"{row['method']}: {row['scored']} of {row['activated']} active features scored; of {row['judged']} "
            f"judgements {row['unreadable']} unreadable and {row['refusals']} refused, {row['unexplained']} features "
            f"unexplained, {row['failed']} failed."
        )
    for problem in outcome.problems:
        print(f"For example, {problem}.")
    print_check(outcome.check, str(outcome.summary["judge"].iloc[0]), outcome.usage)


def print_check(check: JudgeCheck, model: str, usage: Usage) -> None:
    """Print what the judge is worth, and what asking it came to."""
    print(
        f"Judge {model} (prompts of version {PROMPT_VERSION}): balanced accuracy {check.balanced_accuracy:.2f} "
        f"[{check.accuracy_low:.2f}, {check.accuracy_high:.2f}] on {check.pairs} labelled pairs (chance .5), yes-bias "
        f"{_number(check.yes_bias, '+.2f')}, agreement with itself under rewording {check.self_agreement:.2f}, "
        f"{check.unreadable} answers unreadable, {check.refusals} refused"
        + (f", AUC {check.auc:.2f}" if not math.isnan(check.auc) else "")
        + (f", calibrated at P(Yes) > {check.threshold:.2f}" if not math.isnan(check.threshold) else "")
        + "."
    )
    for warning in check.warnings:
        print(f"WARNING: {warning}.")
    estimated = f" ({usage.estimated} requests by estimate: their tokens are not known)" if usage.estimated else ""
    print(
        f"{usage.answered} answers ({usage.sent} requests sent, {usage.retried} tried again), {usage.from_cache} from "
        f"the cache; {usage.prompt_tokens} prompt tokens ({usage.prefix_tokens} of them known to the server) and "
        f"{usage.completion_tokens} answered, ${usage.cost:.4f}{estimated}."
    )


def print_plan(plan: Plan, config: JudgeConfig) -> None:
    """Print what a run would ask."""
    print(f"Plan: {plan.explanations} explanations and {plan.judgements} judgements by {config.judge_model}.")
    print(f"Plan: some {plan.prompt_tokens} prompt tokens and {plan.completion_tokens} answered, ${plan.cost:.2f}.")


def _interval(row: dict[Any, Any], name: str) -> str:
    mean, low, high = (_number(row[name + end], ".3f") for end in ("", "_low", "_high"))
    return mean if low == "-" else f"{mean} [{low}, {high}]"


def _number(value: object, form: str) -> str:
    return "-" if not isinstance(value, int | float) or math.isnan(value) else format(value, form)
