"""Phrases after a Yes or No by which the judge refuses to decide, or leaves the decision open.

Words in quotation marks are ignored: they are quoted from the question.
"""

import re

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


def refuses(rest: str) -> bool:
    """Whether an answer that begins with Yes or No refuses to decide; `rest` is the text after that word."""
    return bool(_REFUSES.search(_QUOTED.sub('""', rest)))


def takes_back(rest: str) -> bool:
    """Whether the text after Yes or No refuses to decide, or leaves the decision open in the same sentence."""
    sentence = _SENTENCE_END.split(rest, maxsplit=1)[0]
    return refuses(rest) or bool(_LEAVES_OPEN.search(_QUOTED.sub('""', sentence)))
