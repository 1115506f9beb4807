"""Testing a judge with questions whose answers are known.

The labelled set (data/judge_check.jsonl, written for this project) holds texts with one token marked; each has a
description that fits and one that does not, both in two wordings. Half of the right answers are Yes.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from bae_ray.analysis.accuracy import wilson
from bae_ray.comsem.answers import Decision, read_decision, shown
from bae_ray.comsem.judge import Judge
from bae_ray.comsem.judge_prompts import Example, Message, content_free_prompts, judge_prompt
from bae_ray.comsem.scoring import gather_all
from bae_ray.errors import JudgeError, RefusedRequestError, UnansweredError

LABELLED_FILE = "judge_check.jsonl"
MARKED = re.compile(r"\[\[(.*?)\]\]")
ONE_SIDED = 0.9
"""A judge that gives the same answer to at least this share of a balanced set is useless."""
MAX_EXAMPLES = 3
"""Largest number of unreadable answers shown."""
READ_BEST = (
    "A judge of one word is read best: take one that follows its instructions, or serve it with vLLM, which holds it "
    "to Yes or No"
)
CUT_OFF = (
    "Give the judge more tokens (--reasoning 1024; in jobs --judge.reasoning 1024), turn its thinking off, or take one "
    "that does not think"
)


class Labelled(NamedTuple):
    """A token and a description, with the right decision."""

    example: Example
    description: str
    reworded: str
    """The same description in other words."""
    fits: bool


class JudgeCheck(NamedTuple):
    """The results of the test of a judge."""

    pairs: int
    balanced_accuracy: float
    """Mean of the shares of right answers over pairs that fit and over pairs that do not; .5 is chance. An unreadable
    answer is wrong."""
    accuracy_low: float
    """Ends of its 95 % interval."""
    accuracy_high: float
    yes_rate: float
    """Share of Yes among the readable answers."""
    yes_bias: float
    """Yes rate minus the share of pairs that fit, .5; NaN without readable answers."""
    self_agreement: float
    """Share of pairs whose two wordings get the same, readable answer."""
    unreadable: int
    """Number of unreadable answers of 2 x pairs; refusals likewise."""
    refusals: int
    auc: float
    """Area under the ROC curve of P(Yes) for pairs that fit; NaN where the server gives no probabilities."""
    threshold: float
    """P(Yes) above which a calibrated decision is Yes; NaN without calibration."""
    useless: bool
    """Whether scores by this judge mean nothing."""
    warnings: tuple[str, ...]
    """Its faults, in words."""
    failed: int = 0
    """Questions without an answer after all attempts. Their pairs are left out, and a rerun asks them again."""


def labelled_pairs() -> list[Labelled]:
    """The labelled set."""
    source = files("bae_ray.comsem").joinpath("data", LABELLED_FILE).read_text(encoding="utf-8")
    return [
        Labelled(_example(item["text"]), *item[kind], fits=kind == "right")
        for item in map(json.loads, source.splitlines())
        for kind in ("right", "wrong")
    ]


def check_prompts() -> list[list[Message]]:
    """All prompts of the test, in both wordings."""
    return [judge_prompt(pair.example, text) for pair in labelled_pairs() for text in (pair.description, pair.reworded)]


async def check_judge(
    judge: Judge, calibrated: bool, on_done: Callable[[], None] = lambda: None
) -> tuple[JudgeCheck, float | None]:
    """Test a judge; also gives the threshold of calibrated decisions, None without calibration.

    Raises `JudgeError` where calibrated decisions are wanted and the server gives no probabilities, and where too few
    questions are answered.
    """
    threshold = await _content_free_threshold(judge) if calibrated else None
    unread: list[str] = []
    cut = False

    async def decide(prompt: list[Message]) -> Decision | None:
        nonlocal cut
        try:
            answer = await judge.decide(prompt)
            decision = read_decision(answer, threshold)
            if decision.problem:
                unread.append(shown(answer))
                cut = cut or answer.cut
        except RefusedRequestError as error:  # by a content filter, for example: the judge cannot judge this pair
            decision = Decision(False, math.nan, "unreadable")
            unread.append(str(error))
        except UnansweredError:
            decision = None
        on_done()
        return decision

    decisions = await gather_all([decide(prompt) for prompt in check_prompts()])
    both = zip(labelled_pairs(), decisions[0::2], decisions[1::2], strict=True)
    known = [(pair, given, reworded) for pair, given, reworded in both if given and reworded]
    if len({pair.fits for pair, _, _ in known}) < 2:
        raise JudgeError("too few questions of the judge's test were answered. Run the same command again.")
    pairs, given, reworded = zip(*known, strict=True)
    examples = list(dict.fromkeys(unread))[:MAX_EXAMPLES]
    told = f"such as {', '.join(examples)}. {CUT_OFF if cut else READ_BEST}" if examples else ""
    return assess(pairs, given, reworded, threshold, failed=decisions.count(None), told=told), threshold


def unmeasured(problem: str) -> JudgeCheck:
    """The results for a judge that could not be asked."""
    nan = math.nan
    failed = len(check_prompts())
    return JudgeCheck(0, nan, nan, nan, nan, nan, nan, 0, 0, nan, nan, useless=True, warnings=(problem,), failed=failed)


def assess(
    pairs: Sequence[Labelled],
    given: Sequence[Decision],
    reworded: Sequence[Decision],
    threshold: float | None,
    failed: int = 0,
    told: str = "",
) -> JudgeCheck:
    """The results of a judge's decisions on labelled pairs, in both wordings.

    `failed` is the number of questions without an answer; `told` shows unreadable answers and a remedy.
    """
    both = [*given, *reworded]
    fits = np.array([pair.fits for pair in (*pairs, *pairs)])
    yes = np.array([decision.yes for decision in both])
    readable = np.array([not decision.problem for decision in both])
    right = readable & (yes == fits)
    recall, specificity = float(right[fits].mean()), float(right[~fits].mean())
    accuracy = (recall + specificity) / 2
    low, high = _interval(recall, specificity, len(pairs) / 2)
    yes_rate = float(yes[readable].mean()) if readable.any() else math.nan
    agreeing = [not a.problem and not b.problem and a.yes == b.yes for a, b in zip(given, reworded, strict=True)]
    unreadable, refusals = (sum(d.problem == problem for d in both) for problem in ("unreadable", "refusal"))
    warnings = _warnings(low, accuracy, yes_rate)
    if failed:
        warnings.insert(0, f"{failed} questions of the judge's test had no answer, and their pairs are left out")
    if unreadable + refusals:
        warnings.append(
            f"{unreadable + refusals} of the judge's {len(both)} answers are refusals or cannot be read, and count as "
            f"wrong{told and ', '}{told}"
        )
    return JudgeCheck(
        pairs=len(pairs),
        balanced_accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        yes_rate=yes_rate,
        yes_bias=yes_rate - float(fits.mean()),
        self_agreement=sum(agreeing) / len(pairs),
        unreadable=unreadable,
        refusals=refusals,
        auc=_auc(np.array([decision.p_yes for decision in both]), fits),
        threshold=math.nan if threshold is None else threshold,
        useless=any(warning.startswith("useless") for warning in warnings),
        warnings=tuple(warnings),
        failed=failed,
    )


def _interval(recall: float, specificity: float, n: float) -> tuple[float, float]:
    """The 95 % interval of the mean of two shares, each of n pairs, from their own (Zou and Donner's MOVER, 2008).

    n counts pairs, not answers: two wordings of one description are not independent.
    """
    shares = (recall, specificity)
    ends = [wilson(share * n, n) for share in shares]
    below = math.hypot(*(share - low for share, (low, _) in zip(shares, ends, strict=True))) / 2
    above = math.hypot(*(high - share for share, (_, high) in zip(shares, ends, strict=True))) / 2
    return sum(shares) / 2 - below, sum(shares) / 2 + above


def _warnings(low: float, accuracy: float, yes_rate: float) -> list[str]:
    found: list[str] = []
    if yes_rate >= ONE_SIDED or yes_rate <= 1 - ONE_SIDED:
        word, share = ("Yes", yes_rate) if yes_rate >= ONE_SIDED else ("No", 1 - yes_rate)
        found.append(
            f"useless: the judge answers {word} to {share:.0%} of questions of which half are {word}; its scores "
            "measure this habit, not the features"
        )
    elif low <= 0.5:
        found.append(
            f"useless: the judge's balanced accuracy of {accuracy:.2f} cannot be told from guessing; scores by it mean "
            "nothing"
        )
    return found


async def _content_free_threshold(judge: Judge) -> float:
    answers = await gather_all([judge.decide(prompt) for prompt in content_free_prompts()])
    leanings = [read_decision(answer).p_yes for answer in answers]
    without = [answer for answer, leaning in zip(answers, leanings, strict=True) if math.isnan(leaning)]
    if without:
        given = "gives none" if not any(answer.scored for answer in answers) else "does not give those of its answer"
        raise JudgeError(
            f"calibrated decisions need the probabilities of Yes and No, and the judge's server {given}: to a question "
            f"without content it answered {shown(without[0])}. Leave --calibrated out, or serve the judge with vLLM."
        )
    return math.fsum(leanings) / len(leanings)


def _auc(p_yes: np.ndarray, fits: np.ndarray) -> float:
    """The Mann-Whitney statistic over the answers with a known probability."""
    from scipy.stats import rankdata

    known = ~np.isnan(p_yes)
    positive, negative = int((known & fits).sum()), int((known & ~fits).sum())
    if not positive or not negative:
        return math.nan
    ranks = rankdata(p_yes[known])
    return float((ranks[fits[known]].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _example(marked: str) -> Example:
    found = MARKED.search(marked)
    assert found is not None
    before = marked[: found.start()]
    text = MARKED.sub(r"\1", marked)
    position = len(re.findall(r"\w+|[^\w\s]", before))
    return Example(found[1], position, text, len(before), len(before) + len(found[1]))
