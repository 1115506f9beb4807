"""P(Yes) of a decision, from the log probabilities of the token that is the decision."""

import math

from bae_ray.comsem.completions import Answer, ScoredToken, letters
from bae_ray.comsem.reasoning import separate

MIN_MASS = 0.01
"""Smallest P(Yes) + P(No) from which their ratio is taken."""
MAX_UNKNOWN = 1 / 8
"""Largest share of P(Yes) + P(No) that unlisted tokens, and tokens that only begin one of the words, may have."""
SPELLINGS = 8
"""How many tokens of a vocabulary may spell one word, such as "Yes", " Yes" and "yes"."""
FORBIDDEN = -1000.0
"""Smaller log probabilities belong to tokens that the server does not allow: vLLM writes -9999."""
MAX_OTHERS = 1e-3
"""Largest probability of all other tokens where the server allows only the two words."""
_PARTS = {"y": "yes", "ye": "yes", "n": "no"}


def p_yes(answer: Answer, start: int) -> float:
    """P(Yes) / (P(Yes) + P(No)) of the token that is the word at `start` of the answer's text, over all spellings.

    NaN where it is unknown: the server gives no log probabilities, or not those of this token; the token is only a part
    of a word that may go on differently; or unlisted tokens may have too much of the probability. Where the server
    allows only the two words, a part counts as its word.
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
    """The index in `spoken` of a character of the text; -1 where the two cannot be aligned.

    Either `spoken` is the beginning of the text (some servers give only the first tokens), or it ends as the text does,
    after reasoning that the server gives elsewhere.
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
