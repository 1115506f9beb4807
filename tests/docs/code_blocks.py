"""The blocks of code in README.md, CONTRIBUTING.md and docs/*.md."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]*?) -->\n+)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.M
)


class Block(NamedTuple):
    """A block of code on a page."""

    language: str
    code: str
    why_not: str | None
    """Why no test runs it, as the comment before it says; None where one does."""


def pages() -> list[str]:
    """The pages, as paths in the repository."""
    return ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[Block]:
    """All blocks of a page that name their language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(found["language"], found["code"], found["why"]) for found in BLOCK.finditer(text)]


def run_blocks(page: str, language: str) -> list[str]:
    """The code of those blocks of a language that a test runs."""
    return [block.code for block in blocks(page) if block.language == language and block.why_not is None]


def commands(code: str) -> list[list[str]]:
    """The words of each command of a block of shell."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]
