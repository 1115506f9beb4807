"""Finding the decision, Yes or No, in the text of an answer.

The rules are strict: a misread answer is never noticed, while an unreadable one is counted and shown. A decision is the
word alone, within any marks; the word after a label ("Answer: Yes"); the word followed by its reason ("No, that is a
verb"); or the value in a JSON object. A sentence that only begins with the word is no decision, nor is one that refuses
or leaves the decision open. Words in quotation marks are ignored there: they are quoted from the question.
"""

import json
import re
from typing import Any, NamedTuple

_QUOTED = re.compile(
    r"(?<!\w)(?P<mark>[\"'`*\u2018\u201c]+)[^\"'`*\u2018\u2019\u201c\u201d\n]{1,24}[\"'`*\u2019\u201d]+(?!\w)"
)
_SENTENCE_END = re.compile(r"(?<=\w[.!?])\s|(?<=\w)\s*\n")

_CANNOT = r"(?:can ?not|can['\u2019]t|could(?: not|n['\u2019]t)|won['\u2019]t|will not|unable to|not able to)"
_REFUSES = re.compile(
    # Only at the start of a clause: "GPT is described as a language model" is a reason.
    r"(?:^|[^\w\s\"'`*]\s*|\n\s*)as an? (?:(?:ai|large|text-based|neutral)\s+)*(?:ai|language model|assistant|model)\b|"
    rf"\b{_CANNOT} (?:(?:really|reliably|be able to|definitively|accurately|possibly) )?(?:help (?:with|you)|assist|"
    r"comply|answer|judge|determine|tell|decide|say|be (?:determined|judged|told|decided|sure|certain|known)|know|"
    r"evaluate|assess|respond|engage|fulfil)\b|"
    rf"\bi ?{_CANNOT} (?:help|provide|continue|do|discuss|create|generate|offer)\b|"
    r"\b(?:impossible|not possible) (?:\w+ \w+ )?to (?:tell|say|determine|know|judge|decide|answer|assess|evaluate)\b|"
    r"\bi(?:['\u2019]\w+| \w+){0,2}(?: \w+ly)? (?:decline|refuse|apologi[sz]e)\b|"
    r"\bi(?:['\u2019]m| am) (?:\w+ )?sorry\b|\bmy apologies\b|\bunfortunately,? i\b|"
    r"\b(?:my|our|content|safety|usage|community|ethical) (?:\w+ )?(?:guidelines|polic(?:y|ies))\b|"
    r"\b(?:is|['\u2019]s|are|be|seems?|sounds?) (?:\w+ ){0,2}inappropriate\b|"
    r"\bsomething (?:that |which )?i(?: (?:can|could|will|am|feel|want)|['\u2019]m)\b",
    re.IGNORECASE,
)
_LEAVES_OPEN = re.compile(
    r"\b(?:it|that|this|answer)(?: \w+)? depends\b|\bdepend(?:s|ing) (?:up)?on (?:the |your )?(?:context|"
    r"interpretation|how|what|whether|who|which|meaning|usage|definition|perspective)\b|"
    r"\b(?:hard|difficult|tough|tricky) to (?:say|tell|determine|judge|know|decide|answer|be sure)\b|"
    r"\beither way\b|\bboth ways\b|"
    r"(?:\b(?:is|remains|seems)|['\u2019]s) (?:not (?:\w+ )?clear|"
    r"(?:(?:\w+ly|too|very|quite|still|rather) )?unclear)\b|"
    r"\b(?:my|our) pleasure\b|\bpleasure to\b|\bno (?:problem|worries|trouble)\s*[!.,]|"
    r"(?:\bnot|n['\u2019]t)(?: \w+){0,2} (?:enough|sufficient) (?:\w+ )?(?:information|context|detail)|"
    r"\binsufficient (?:information|context|detail)|"
    r"\bwithout (?:more|further|any|additional) (?:information|context)\b|"
    r"\b(?:need|needs|requires?) (?:more|further|additional) (?:information|context)\b",
    re.IGNORECASE,
)

MAX_MARKS = 24
"""Largest number of quotation marks, asterisks, blanks and the like before the word."""
_FULL_WIDTH = {0xFF01 + i: 0x21 + i for i in range(94)} | {0x3000: " ", 0x3002: ".", 0x2018: "'", 0x2019: "'"}

_MARKS = rf"(?:\W|_|<(?:answer|response|output)>|\\(?:boxed|text)\{{){{0,{MAX_MARKS}}}"
_LABEL = (
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:(?:the|my)\s+)?(?:(?:final|short|correct|right)\s+)?"
    r"(?:answer|decision|verdict|judge?ment|response|result|conclusion|a)"
)
_WORD = re.compile(
    rf"{_MARKS}(?:{_LABEL}{_MARKS}(?:(?:is|would be)\b[\s:]*|[:=\u2013\u2014-]){_MARKS})?(?P<word>yes|no)(?!\w)",
    re.IGNORECASE,
)
_NOTHING_MORE = re.compile(r"(?:[^\w?.\u2026\u2013\u2014-]|_|\.(?!\.)|</(?:answer|response|output)>)*")
_SET_OFF = re.compile(
    r"[\"'*_`\])}]*(?:\.(?!\.|\s*\d)|[,;:!]|\s[\u2013-]\s|\s?\u2014\s?|\s*\n|\s+(?=\())[\s\"'*_`(]*", re.IGNORECASE
)
_REASON_AT_ONCE = re.compile(
    r"\s+(?:because|since|(?:it|this|that|the (?:token|description|word|phrase))\b)", re.IGNORECASE
)
_REASON = re.compile(
    r"(?:because|since|as|for|given|it|its|this|that|these|those|they|the|an?|here|there|in|both|although|though|while|"
    r"not|reason(?:ing)?|explanation|justification|note|description|token)\b",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    r"\b(?:is|are|was|were|does|do|did|fits?|matches|match|describes?|refers?|means?|belongs?|names?|denotes?|"
    r"expresses|functions?|acts?|isn't|aren't|doesn't)\b",
    re.IGNORECASE,
)
_CHAT = re.compile(
    r"(?:i|i'\w+|you|your|we|let|let's|so|please|sorry|wait|hmm+|well|ok(?:ay)?|sure|of course|thanks?|but|maybe|"
    r"perhaps|actually|however|what|how|who|why|can|could|would|should|do|does|did|is|are|if|unless|one|nobody|happy|glad|"
    r"problem|worries|yes|no)\b",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)
_KEYS = ("answer", "decision", "final_answer", "verdict", "judgement", "judgment", "response", "result", "choice")
_SPELLED = {"yes": re.compile(r"\byes\b", re.IGNORECASE), "no": re.compile(r"\bno\b", re.IGNORECASE)}


class Word(NamedTuple):
    """A decision in a text."""

    yes: bool
    start: int
    """Index of the word's first character; -1 where the text has the decision in another form, or more than once."""


def find_decision(text: str, cut: bool) -> Word | None:
    """The decision in an answer without its reasoning; None where there is none.

    `cut` says that the token limit ended the answer: then only a word that stands alone is a decision.
    """
    text = text.translate(_FULL_WIDTH)  # character for character: places stay what they are
    fenced = _FENCE.search(text)
    inner = fenced[1] if fenced else text
    if inner.lstrip().startswith("{") and ":" in inner:
        return _of_object(inner.strip(), text)
    found = _WORD.match(text)
    if not found:
        return None
    word = found["word"].lower()
    rest = text[found.end() :]
    other = _SPELLED["no" if word == "yes" else "yes"]
    if other.search(rest) or takes_back(rest) or not _ends(rest, cut):
        return None
    return Word(word == "yes", found.start("word"))


def _ends(rest: str, cut: bool) -> bool:
    """Whether the word is a decision, given the text after it."""
    if _NOTHING_MORE.fullmatch(rest):
        return not (cut and "," in rest)
    set_off = _SET_OFF.match(rest)
    if cut:  # a whole line, whatever comes after it
        return bool(set_off) and "\n" in set_off[0] and "," not in set_off[0] and not _CHAT.match(rest, set_off.end())
    if _REASON_AT_ONCE.match(rest):
        return True
    if not set_off:
        return False
    reason = rest[set_off.end() :]
    sentence = re.split(r"(?<=[.!?])\s|\n", reason, maxsplit=1)[0]
    if sentence.endswith("?") or _CHAT.match(reason):
        return False
    quoted = set_off[0].rstrip()[-1:] in "\"'`(" and set_off[0].rstrip() != ""
    return quoted or bool(_REASON.match(reason)) or bool(_STATEMENT.search(sentence))


def _of_object(inner: str, text: str) -> Word | None:
    """The decision in a JSON object, under one of the known keys or as its only value."""
    try:
        pairs: Any = json.loads(inner, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    said = [value for key, value in pairs if str(key).strip().lower().replace(" ", "_") in _KEYS]
    values = said or [value for _, value in pairs if len(pairs) == 1]
    if len(values) != 1:
        return None
    if isinstance(values[0], bool):
        return Word(values[0], -1)
    if not isinstance(values[0], str) or values[0].lstrip().startswith("{"):
        return None
    found = find_decision(values[0], cut=False)
    if found is None:
        return None
    places = [place.start(1) for place in re.finditer(r":\s*\"\W*(yes|no)\b", text, re.IGNORECASE)]
    return Word(found.yes, places[0] if len(places) == 1 else -1)


def refuses(rest: str) -> bool:
    """Whether an answer that begins with Yes or No refuses to decide; `rest` is the text after that word."""
    return bool(_REFUSES.search(_QUOTED.sub('""', rest)))


def takes_back(rest: str) -> bool:
    """Whether the text after Yes or No refuses to decide, or leaves the decision open in the same sentence."""
    sentence = _SENTENCE_END.split(rest, maxsplit=1)[0]
    return refuses(rest) or bool(_LEAVES_OPEN.search(_QUOTED.sub('""', sentence)))
