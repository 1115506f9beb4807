"""The shape of the house: each file's name says what it holds, and no file is long."""

from collections import Counter
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "bae_ray").rglob("*.py"))
IN_EVERY_ROOM = ("__init__", "__main__", "config")
"""Names that each room may have."""
IN_EVERY_EXPERIMENT = ("experiment", "report")
MOST_LINES, MEDIAN_LINES, MOST_LINES_OF_TESTS = 350, 110, 400


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def too_long(files: list[Path], most: int) -> dict[str, int]:
    return {str(file.relative_to(ROOT)): n for file in files if (n := lines(file)) > most}


def test_no_name_of_a_file_is_there_twice():
    experiments = ROOT / "bae_ray" / "experiments"
    names = Counter(
        file.stem
        for file in FILES
        if file.stem not in IN_EVERY_ROOM
        and not (file.stem in IN_EVERY_EXPERIMENT and file.parent.parent == experiments)
    )
    assert [name for name, n in names.items() if n > 1] == []


def test_no_file_is_long():
    assert too_long(FILES, MOST_LINES) == {}
    assert too_long(sorted((ROOT / "tests").rglob("*.py")), MOST_LINES_OF_TESTS) == {}
    assert median(lines(file) for file in FILES if lines(file)) <= MEDIAN_LINES
