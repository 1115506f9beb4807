"""ComSem on the terminal: the table, the judge's own test beside it, and what a run would cost."""

import math

from bae_ray.comsem.config import JudgeConfig
from bae_ray.comsem.judge_check import JudgeCheck
from bae_ray.comsem.judge_prompts import PROMPT_VERSION
from bae_ray.comsem.summary import Outcome
from bae_ray.comsem.tasks import Plan
from bae_ray.comsem.usage import Usage
from bae_ray.report.numbers import interval, known
from bae_ray.report.terminal import print_tables, table_of


def print_summary(outcome: Outcome) -> None:
    """Print Table 1's columns with their intervals and controls, and how far the judge can be trusted."""
    columns = {
        "method": "{method}",
        "layer": "{layer}",
        "L_r": "{mse:.2e}",
        "||Cov||": "{spectral_norm:.3f}",
        "Act.": "{activated}",
        "FI#": "{interpretable}",
        "Score": interval("score"),
        "chance": interval("chance"),
        "Score - chance": interval("above_chance"),
        "random": interval("random"),
    }
    title = "ComSem: scores with 95 % intervals over features"
    print_tables(table_of(title, outcome.summary, columns, left=["method"]))
    for row in outcome.summary.to_dict("records"):
        print(
            f"{row['method']}: {row['scored']} of {row['activated']} active features scored; of {row['judged']} "
            f"judgements {row['unreadable']} unreadable and {row['refusals']} refused, {row['unexplained']} features "
            f"unexplained, {row['failed']} failed."
        )
    for problem in outcome.problems:
        print(f"For example, {problem}.")
    print(*check_lines(outcome.check, str(outcome.summary["judge"].iloc[0]), outcome.usage), sep="\n")


def check_lines(check: JudgeCheck, model: str, usage: Usage) -> list[str]:
    """How far the judge can be trusted, and what asking it cost."""
    auc = "" if math.isnan(check.auc) else f", AUC {check.auc:.2f}"
    calibrated = "" if math.isnan(check.threshold) else f", calibrated at P(Yes) > {check.threshold:.2f}"
    estimated = f" ({usage.estimated} requests by estimate: their tokens are not known)" if usage.estimated else ""
    judge = (
        f"Judge {model} (prompts of version {PROMPT_VERSION}): balanced accuracy {check.balanced_accuracy:.2f} "
        f"[{check.accuracy_low:.2f}, {check.accuracy_high:.2f}] on {check.pairs} labelled pairs (chance .5), yes-bias "
        f"{known(check.yes_bias, '+.2f')}, agreement with itself under rewording {check.self_agreement:.2f}, "
        f"{check.unreadable} answers unreadable, {check.refusals} refused{auc}{calibrated}."
    )
    asked = (
        f"{usage.answered} answers ({usage.sent} requests sent, {usage.retried} tried again), {usage.from_cache} from "
        f"the cache; {usage.prompt_tokens} prompt tokens ({usage.prefix_tokens} of them known to the server) and "
        f"{usage.completion_tokens} answered, ${usage.cost:.4f}{estimated}."
    )
    return [judge, *(f"WARNING: {warning}." for warning in check.warnings), asked]


def print_cost(plan: Plan, config: JudgeConfig) -> None:
    """Print how much a run would ask, and its cost."""
    print(f"Plan: {plan.explanations} explanations and {plan.judgements} judgements by {config.judge_model}.")
    print(f"Plan: some {plan.prompt_tokens} prompt tokens and {plan.completion_tokens} answered, ${plan.cost:.2f}.")
