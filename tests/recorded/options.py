"""Verbs of the command, and the options of each with their defaults: what people have in their scripts."""

import io
import os
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from bae_ray.cli import main
from tests.recorded.places import ARCHITECTURES, verbs

OPTION = re.compile(r"^ {1,4}(--?[a-z][\w.-]*(?:, --?[a-z][\w.-]*)*)(?: (\S.*?))?(?: {2,}(\S.*)|)$")
DEFAULT = re.compile(r"\((default: .*|required|optional)\)$")


def call(*arguments: object) -> tuple[int, str, str]:
    """The command in this process, in a narrow terminal: exit code, what it printed and complained of."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["bae-ray", *map(str, arguments)]),
        mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return code, out.getvalue(), err.getvalue()


def options(_folder: Path) -> dict[str, Any]:
    """Each verb's options: what it takes, and its default. Of `train` those of every architecture, too."""
    listed = call("--help")[1]
    found: dict[str, Any] = {verb: _options(verb) for verb in verbs() if f"\n  {verb} " in listed}
    architectures = [name for name in ARCHITECTURES if name != "bae"]
    chosen = [("train", f"--autoencoder.architecture={name}") for name in architectures]
    for verb, choice in [
        *chosen,
        *(("extract", f"--input.kind={kind}") for kind in ("windows", "icl", "random_tokens")),
    ]:
        listed = _options(verb, choice)
        found[f"{verb} {choice}"] = {name: what for name, what in listed.items() if found[verb].get(name) != what}
    return found


def _options(verb: str, *arguments: str) -> dict[str, str]:
    code, printed, _ = call(*verb.split(), *arguments, "--help")
    assert code == 0
    texts: dict[str, str] = {}
    takes: dict[str, str] = {}
    name = ""
    for line in map(str.rstrip, printed.splitlines()):
        if option := OPTION.match(line):
            name = option[1]
            takes[name], texts[name] = option[2] or "", option[3] or ""
        elif name and line.startswith(" " * 5):
            texts[name] += " " + line.strip()
        else:
            name = ""
    defaults = {name: default[1] for name, text in texts.items() if (default := DEFAULT.search(text.strip()))}
    return {name: f"{takes[name]} ({defaults[name]})".strip() if name in defaults else takes[name] for name in takes}
