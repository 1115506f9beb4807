"""Explaining features and judging the explanations: steps 2 and 3 of ComSem (paper, Algorithm 1).

Results depend only on the examples and the judge's answers. Since every answer is kept, a killed run goes on where it
stopped, and a finished one costs nothing to repeat.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, cast

from bae_ray.comsem.answers import Decision, Explanation, read_decision, read_explanation, shown
from bae_ray.comsem.completions import Answer
from bae_ray.comsem.judge import Judge
from bae_ray.comsem.judge_prompts import Example, interpret_prompt, judge_prompt
from bae_ray.errors import JudgeError, UnansweredError

T = TypeVar("T")

Status = Literal["scored", "inactive", "unscored", "unexplained", "unreadable", "failed"]
"""scored; inactive: too few examples; unscored: active, but not in the sample that is scored; unexplained: no usable
explanation; unreadable: no readable judgement; failed: requests without an answer."""


class Task(NamedTuple):
    """One feature to be explained and scored."""

    feature: int
    interpret: Sequence[Example]
    """Examples that it is explained from."""
    test: Sequence[Example]
    """Held-out examples that the explanation is judged on."""
    other: int = -1
    """Another feature, whose examples should not fit the explanation; -1: none."""
    others: Sequence[Example] = ()
    """Held-out examples of the other feature."""


class Judgement(NamedTuple):
    """Decisions whether a description fits some examples."""

    n: int
    """Number of examples, including those with unreadable answers."""
    yes: int
    p_yes: float
    """Mean of the known P(Yes); NaN where none is known."""
    unreadable: int
    refusals: int
    example: str = ""
    """An unreadable answer or a refusal."""

    @property
    def score(self) -> float:
        """Share of Yes among all examples; NaN without examples."""
        return self.yes / self.n if self.n else math.nan


NOTHING_ASKED = Judgement(0, 0, math.nan, 0, 0)


class Candidate(NamedTuple):
    """An explanation of a feature, and how well it fits the examples that it was made from."""

    explanation: str
    fit: float
    """Share of Yes; NaN where it is the only one."""


class FeatureScore(NamedTuple):
    """The result of one feature."""

    feature: int
    status: Status
    explanation: str
    score: float
    """Share of held-out examples that the explanation fits; 0 for unexplained and unreadable features; NaN for failed
    ones and those that were not asked about."""
    test: Judgement
    shuffled: Judgement
    """The same explanation on another feature's examples."""
    shuffled_with: int
    candidates: tuple[Candidate, ...] = ()
    explanations_refused: int = 0
    explanations_unreadable: int = 0
    error: str = ""
    """The error of a request, or an unreadable answer."""


def unasked(feature: int, status: Status) -> FeatureScore:
    """The result of a feature without any judgement."""
    return FeatureScore(feature, status, "", math.nan, NOTHING_ASKED, NOTHING_ASKED, -1)


async def score_features(
    judge: Judge,
    tasks: Sequence[Task],
    interpretations: int,
    threshold: float | None,
    at_once: int,
    on_done: Callable[[], None] = lambda: None,
) -> list[FeatureScore]:
    """Scores in the order of the tasks; `at_once` of these are under way at once.

    A feature whose requests have no answer is reported as failed, and the others go on. Raises `JudgeError` where no
    request will be answered any more.
    """
    scores: list[FeatureScore | None] = [None] * len(tasks)
    left = iter(enumerate(tasks))

    async def work() -> None:
        for number, task in left:
            scores[number] = await score_feature(judge, task, interpretations, threshold)
            on_done()

    await gather_all([work() for _ in range(min(at_once, len(tasks)))])
    return cast(list[FeatureScore], scores)


async def score_feature(judge: Judge, task: Task, interpretations: int, threshold: float | None) -> FeatureScore:
    """Explain one feature and judge the explanation."""
    try:
        prompt = interpret_prompt(task.interpret)
        answers = await gather_all([judge.explain(prompt, number) for number in range(interpretations)])
        given = [read_explanation(answer) for answer in answers]
        candidates = await _candidates(judge, task, given, threshold)
        refused, unreadable = (sum(e.problem == problem for e in given) for problem in ("refusal", "unreadable"))
        if not candidates:
            return unasked(task.feature, "unexplained")._replace(
                score=0.0,
                shuffled_with=task.other if task.others else -1,
                explanations_refused=refused,
                explanations_unreadable=unreadable,
                error=f"explained by {shown(answers[0])}",
            )
        chosen = max(candidates, key=lambda candidate: -1.0 if math.isnan(candidate.fit) else candidate.fit)
        test, shuffled = await gather_all(
            [judge_examples(judge, examples, chosen.explanation, threshold) for examples in (task.test, task.others)]
        )
    except UnansweredError as error:
        return unasked(task.feature, "failed")._replace(error=str(error))
    readable = test.n > test.unreadable + test.refusals
    status: Status = "scored" if readable else "unreadable"
    return FeatureScore(
        task.feature,
        status,
        chosen.explanation,
        test.score,
        test,
        shuffled,
        task.other,
        candidates,
        refused,
        unreadable,
        next((f"answered {one.example}" for one in (test, shuffled) if one.example), ""),
    )


async def judge_examples(
    judge: Judge, examples: Sequence[Example], description: str, threshold: float | None
) -> Judgement:
    """Have a description judged on each example."""
    answers = await gather_all([judge.decide(judge_prompt(example, description)) for example in examples])
    return summed([read_decision(answer, threshold) for answer in answers], answers)


def summed(decisions: Sequence[Decision], answers: Sequence[Answer]) -> Judgement:
    """Count decisions, which were read from these answers."""
    unread = (shown(answer) for decision, answer in zip(decisions, answers, strict=True) if decision.problem)
    known = [decision.p_yes for decision in decisions if not math.isnan(decision.p_yes)]
    return Judgement(
        n=len(decisions),
        yes=sum(decision.yes for decision in decisions),
        p_yes=math.fsum(known) / len(known) if known else math.nan,
        unreadable=sum(decision.problem == "unreadable" for decision in decisions),
        refusals=sum(decision.problem == "refusal" for decision in decisions),
        example=next(unread, ""),
    )


async def _candidates(
    judge: Judge, task: Task, given: Sequence[Explanation], threshold: float | None
) -> tuple[Candidate, ...]:
    """The different explanations. If there are several, each is judged on the examples it was made from."""
    texts = list(dict.fromkeys(explanation.text for explanation in given if not explanation.problem))
    if len(texts) < 2:
        return tuple(Candidate(text, math.nan) for text in texts)
    fits = await gather_all([judge_examples(judge, task.interpret, text, threshold) for text in texts])
    return tuple(Candidate(text, fit.score) for text, fit in zip(texts, fits, strict=True))


async def gather_all(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Results in order; the first error is raised.

    Where the judge gives up, requests under way may still be answered and paid for, so they are waited for; any other
    error cancels them.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        while pending := [task for task in tasks if not task.done()]:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
            if any(task.exception() and not isinstance(task.exception(), JudgeError) for task in done):
                break
    finally:
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [one for one in found if isinstance(one, BaseException)]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, asyncio.CancelledError))
    return cast(list[T], found)
