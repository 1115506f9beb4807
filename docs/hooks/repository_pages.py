"""Pages of the site whose files lie outside docs/, and links to such files.

README.md is the first page; CONTRIBUTING.md and CHANGELOG.md are pages, too. Another file of the repository that a page
links to becomes a page that shows it, and a folder one with a list of its files. Only what git knows or would take is
shown.
"""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository that are pages, and what they are called in the site."""
SHOWN = "repository"
"""Folder of the pages that show other files."""
CODE_OR_LINK = re.compile(
    r"^```.*?^```$|`[^`\n]+`|(?<=\]\()(?P<link>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))", re.DOTALL | re.M
)
LANGUAGES = {".py": "python", ".sh": "bash", ".sbatch": "bash", ".yaml": "yaml", ".json": "json", ".toml": "toml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    wanted: set[str] = set()
    for file in files.documentation_pages():
        _with_links(file.content_string, _source(file.src_uri), lambda path: wanted.add(path) or path)
    known = _known()
    for path in sorted(wanted):
        if path not in PAGES and not path.startswith("docs/"):
            for name, content in _shown(path, known).items():
                if files.get_file_from_path(name) is None:
                    files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Have links lead to the pages of the site."""
    here = page.file.src_uri
    if here.startswith(f"{SHOWN}/") or not (ROOT / _source(here)).is_file():
        return markdown
    folder = str(PurePosixPath(here).parent)
    return _with_links(markdown, _source(here), lambda path: os.path.relpath(_name(path), folder))


def _source(name: str) -> str:
    """Path in the repository of a page's file."""
    return next((source for source, page in PAGES.items() if page == name), f"docs/{name}")


def _name(path: str) -> str:
    """What a path in the repository is called in the site."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{SHOWN}/{path}/index.md" if (ROOT / path).is_dir() else f"{SHOWN}/{path}.md"


def _with_links(text: str, source: str, changed: Callable[[str], str]) -> str:
    """The text with the links to files of the repository changed: each is given as its path in the repository."""

    def replaced(match: re.Match[str]) -> str:
        link = match["link"]
        if not link or re.match(r"[a-z]+:", link):
            return match[0]
        path = os.path.normpath(PurePosixPath(source).parent / link)
        return changed(path) + (match["anchor"] or "") if (ROOT / path).exists() else match[0]

    return CODE_OR_LINK.sub(replaced, text)


def _known() -> list[str]:
    """The files that git has or would take: nothing that is ignored, such as secrets."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    return sorted(done.stdout.splitlines())


def _shown(path: str, known: list[str]) -> dict[str, str]:
    """The page of a file; or of a folder, with the pages of its files."""
    within = [file for file in known if file.startswith(f"{path}/")]
    if not within:
        return {_name(path): _code(path)} if path in known else {}
    listed = "".join(f"- [{file.removeprefix(f'{path}/')}]({file.removeprefix(f'{path}/')}.md)\n" for file in within)
    return {_name(path): f"# {path}\n\n{listed}", **{_name(file): _code(file) for file in within}}


def _code(path: str) -> str:
    content = (ROOT / path).read_text(encoding="utf-8").rstrip("\n")
    return f"# {path}\n\n````{LANGUAGES.get(PurePosixPath(path).suffix, 'text')}\n{content}\n````\n"
