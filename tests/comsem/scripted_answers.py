"""Answers of a judge's server as they come over HTTP."""

import json
import math
from typing import Any

from bae_ray.comsem.completions import Answer

THOUGHT = "Okay, let me see. It may well be no verb, yes? I would say so."
HARMONY = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>"
HARMONY_STRIPPED = "analysis{}assistantfinal{}"


def body(
    content: Any, finish: str = "stop", tokens: list[Any] | None = None, **message: Any
) -> dict[str, Any]:  # fmt: skip
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    if tokens is not None:
        choice["logprobs"] = {"content": tokens}
    return {"choices": [choice]}


def answer(content: Any, finish: str = "stop", tokens: list[Any] | None = None, **message: Any) -> Answer:
    return Answer.of_body(body(content, finish, tokens, **message))


def token(text: str, /, **alternatives: float | None) -> dict[str, Any]:
    """A token of the server's log probabilities, whose alternatives are given with their probabilities."""
    top = [listed(name, p) for name, p in alternatives.items()]
    return {**next((one for one in top if one["token"] == text), listed(text, 0.5)), "top_logprobs": top}


def listed(text: str, p: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": None if p is None else math.log(p) if p else -9999.0}


def in_all_forms(word: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Content and further fields of a message that answers with this word, in the forms that servers give it."""
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}, {"type": "text", "text": word}]
    call = {"id": "c", "type": "function", "function": {"name": "a", "arguments": json.dumps({"answer": word})}}
    called = {**call, "function": {"name": "a", "arguments": {"answer": word}}}
    texts = {
        "word": word, "small": word.lower(), "capitals": f" {word.upper()}.", "quoted": f'"{word}"',
        "guillemets": f"«{word}»", "bold": f"**{word}**", "brackets": f"[{word}]", "braces": f"{{{word}}}",
        "corner brackets": f"「{word}」。", "full width": "".join(chr(ord(c) + 0xFEE0) for c in f"{word}."),
        "boxed": f"$\\boxed{{{word}}}$", "boxed text": f"\\boxed{{\\text{{{word}}}}}",
        "tag": f"<answer>{word}</answer>",
        "end mark": f"{word}<|im_end|>", "label": f"Answer: {word}.", "bold label": f"**Answer:** {word}",
        "wide label": f"Answer\uff1a{word}", "sentence": f"The answer is **{word}**.", "final": f"Final answer: {word}",
        "reason": f"{word}, because the token is a noun.", "reason at once": f"{word} because it is a noun",
        "reason after a dash": f"{word} - the token is a noun", "reason in brackets": f"{word} (the token is a noun)",
        "reason below": f"**{word}**\n\nThe token names a thing.", "statement": f"{word}. Paris is a city.",
        "about the token": f'{word}, "paints" names a thing.', "json": json.dumps({"answer": word}),
        "fenced json": f'```json\n{{\n  "answer": "{word}"\n}}\n```', "json with a reason":
        json.dumps({"reason": "no verb, yes", "answer": word}), "json of one value": json.dumps({"fits": word}),
        "json of a truth value": json.dumps({"answer": word == "Yes"}),
        "think": f"<think>\n{THOUGHT}\n</think>\n\n{word}", "no opening tag": f"{THOUGHT}\n</think>\n\n{word}",
        "thinking": f"<thinking>{THOUGHT}</thinking>{word}", "nothing thought": f"<think>\n\n</think>\n\n{word}",
        "brackets of thought": f"[THINK]{THOUGHT}[/THINK]{word}", "harmony": HARMONY.format(THOUGHT, word),
        "harmony without marks": HARMONY_STRIPPED.format(THOUGHT, word),
    }  # fmt: skip
    return {name: (text, {}) for name, text in texts.items()} | {
        "parts": (parts, {}),
        "parts of text": ([{"type": "text", "text": word[:1]}, {"type": "text", "text": word[1:]}], {}),
        "reasoning_content": (f"\n\n{word}", {"reasoning_content": THOUGHT}),
        "reasoning": (word, {"reasoning": THOUGHT}),
        "tool": (None, {"tool_calls": [call]}),
        "tool with an object": ("", {"tool_calls": [called]}),
        "function": (None, {"function_call": call["function"]}),
    }
