"""P(Yes) of a decision: the probabilities of the very token that is the decision, or none."""

import math

from bae_ray.comsem.completions import Answer, ScoredToken, letters
from bae_ray.comsem.reasoning import separate

MIN_MASS = 0.01
"""P(Yes) + P(No) below which the two say nothing."""
MAX_UNKNOWN = 1 / 8
"""Share of P(Yes) + P(No) that what is not listed, or only begins like one of the two, may come to at most."""
SPELLINGS = 8
""""Yes", " Yes", "yes" and so on: so many tokens of the vocabulary may be one word that is not listed."""
FORBIDDEN = -1000.0
"""Log probabilities below are of tokens that the server does not let through: vLLM writes -9999."""
MAX_OTHERS = 1e-3
"""Of all probability, what is left for other tokens where the server lets nothing but the two words through."""
_PARTS = {"y": "yes", "ye": "yes", "n": "no"}


def p_yes(answer: Answer, start: int) -> float:
    """P(Yes) / (P(Yes) + P(No)) of the token that is the word at `start` of the answer's text, over all spellings.

    NaN where it is not known: where the server gives no log probabilities, or not those of this token; where the token
    is only a part of the word, which may go on as another; where too much may hide in what it does not list. A part
    counts as its word where the server lets nothing but the two words through.
    """
    place = _place(answer, start)
    token = next((one for one in answer.scored if one.start <= place < one.start + len(one.token)), None)
    if token is None or letters(token.token) != letters(answer.text[start : start + len(letters(token.token))]):
        return math.nan
    return _share(token)


def _share(token: ScoredToken) -> float:
    mass = dict.fromkeys(("yes", "no", *_PARTS), 0.0)
    total = 0.0
    for other, log_probability in token.alternatives:
        probability = math.exp(log_probability)
        total += probability
        if (word := letters(other)) in mass:
            mass[word] += probability
    constrained = any(log_probability < FORBIDDEN for _, log_probability in token.alternatives)
    if constrained and sum(mass.values()) > 1 - MAX_OTHERS:
        for part, word in _PARTS.items():
            mass[word] += mass.pop(part)
    known = mass["yes"] + mass["no"]
    if known < MIN_MASS or letters(token.token) in mass.keys() & _PARTS or total > 1.02:
        return math.nan
    unknown = sum(mass.get(part, 0.0) for part in _PARTS)
    if not mass["yes"] or not mass["no"]:  # what is not listed is no more probable than anything that is
        least = math.exp(min(log_probability for _, log_probability in token.alternatives))
        unknown += min(max(0.0, 1 - total), SPELLINGS * least)
    return mass["yes"] / known if unknown <= MAX_UNKNOWN * (known + unknown) else math.nan


def _place(answer: Answer, start: int) -> int:
    """Where in what was spoken a place of the text is; -1 where the two cannot be laid side by side.

    Either what was spoken is the text from its start (some servers give the first tokens alone); or it ends as the text
    does, after a thought which the server has put elsewhere.
    """
    text, spoken = answer.text, answer.spoken
    lead, spoken_lead = (len(one) - len(one.lstrip()) for one in (text, spoken))
    first = spoken.strip()
    if not first or answer.thought.strip().startswith(first):
        return -1
    if text[lead:].startswith(first):
        return start - lead + spoken_lead
    said, heard = separate(text), separate(spoken)
    if not said.answer or len(first) < len(text.strip()) or not heard.answer.endswith(said.answer):
        return -1
    return heard.start + len(heard.answer) - len(said.answer) + start - said.start
