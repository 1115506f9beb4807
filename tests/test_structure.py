"""How the package is put together: imports, names of files, and who may know of an architecture's class."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from grimp import ImportGraph, build_graph

from bae_ray.autoencoders.architectures import ARCHITECTURES
from bae_ray.autoencoders.base import Autoencoder

ROOT = Path(__file__).parents[1]
CLASSES = {
    "Autoencoder",
    "ArchitectureConfig",
    *(one.config.__name__ for one in ARCHITECTURES.values()),
    *(one.load().__name__ for one in ARCHITECTURES.values()),
}


def circles(graph: ImportGraph) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for imported in graph.find_modules_directly_imported_by(module):
            if imported not in number:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in stack:
                lowest[module] = min(lowest[module], number[imported])
        if lowest[module] == number[module]:
            start = stack.index(module)
            component = stack[start:]
            del stack[start:]
            if len(component) > 1:
                found.append(sorted(component))

    for module in sorted(graph.modules):
        if module not in number:
            visit(module)
    return found


def test_no_imports_go_in_circles():
    """Imports inside functions count; those for type checkers alone do not."""
    assert circles(build_graph("bae_ray", exclude_type_checking_imports=True, cache_dir=None)) == []


def test_a_circle_is_found():
    graph = ImportGraph()
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("d", "e")):
        graph.add_import(importer=importer, imported=imported)
    assert circles(graph) == [["b", "c"]]


def test_no_name_of_a_file_is_there_twice():
    files = [file for file in (ROOT / "bae_ray").rglob("*.py") if file.stem not in ("__init__", "config")]
    rooms = [file for file in files if file.parent.parent.name == "experiments"]
    names = Counter(file.name for file in files if not (file in rooms and file.stem in ("experiment", "report")))
    assert [name for name, times in names.items() if times > 1] == []


def test_no_file_is_long():
    counts = {
        file: len(file.read_text(encoding="utf-8").splitlines())
        for file in [*(ROOT / "bae_ray").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    }
    package = {file: n for file, n in counts.items() if ROOT / "bae_ray" in file.parents}
    tests = {file: n for file, n in counts.items() if ROOT / "tests" in file.parents}
    assert [file for file, n in package.items() if n > 350] + [file for file, n in tests.items() if n > 400] == []
    assert median(n for n in package.values() if n) <= 110


def asked_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Where a class of an architecture is asked for, or its name compared: the line, and the class or name."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, classes]):
                names = {part.id for part in ast.walk(classes) if isinstance(part, ast.Name)}
                names |= {part.attr for part in ast.walk(classes) if isinstance(part, ast.Attribute)}
                yield from ((node.lineno, name) for name in sorted(names & CLASSES - {"Autoencoder"}))
            case ast.MatchClass(cls=ast.Name(id=name)) if name in CLASSES:
                yield node.lineno, name
            case ast.Compare() if "architecture" in ast.unparse(node):
                parts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                yield from ((node.lineno, name) for name in parts if name in ARCHITECTURES)


def test_only_the_autoencoders_know_of_an_architecture_by_its_class_or_name():
    """What others need to know of one is in its declaration, so that it is added in one place."""
    found = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for folder in ("bae_ray", "jobs", "serve")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if ROOT / "bae_ray" / "autoencoders" not in file.parents
        for line, name in asked_of(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("isinstance(x, BAEConfig)", "BAEConfig"),
        ("isinstance(x, (int, autoencoders.Transcoder))", "Transcoder"),
        ("config.architecture == 'bae'", "bae"),
        ("run['autoencoder.architecture'] in ('topk',)", "topk"),
        ("match x:\n case GatedSAE():\n  pass", "GatedSAE"),
    ],
)
def test_what_asks_for_an_architecture_is_found(code: str, name: str):
    assert [found for _, found in asked_of(ast.parse(code))] == [name]


def test_every_architecture_is_declared_with_its_own_class():
    classes = [one.load() for one in ARCHITECTURES.values()]
    assert len(set(classes)) == len(classes) == len({one.label for one in ARCHITECTURES.values()})
    assert all(issubclass(one, Autoencoder) for one in classes)
