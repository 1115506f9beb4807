"""The file of answers that are paid for: what stands in its way is told."""

from pathlib import Path

import pytest

from bae_ray.comsem.answer_cache import AnswerCache
from bae_ray.errors import InvalidInputError, UnreadableFileError


def test_a_file_that_cannot_be_opened_is_told_and_leaves_no_lock(tmp_path: Path):
    """As where a link leads into a folder that is gone, or where the database may not be written."""
    file = tmp_path / "judge.sqlite"
    file.symlink_to(tmp_path / "gone" / "judge.sqlite")
    with pytest.raises(UnreadableFileError, match=r"judge\.sqlite is not a cache .*unable to open database file"):
        AnswerCache(file).__enter__()
    file.unlink()
    with AnswerCache(file) as cache:
        assert cache.tokens() == (0, 0)


def test_another_file_in_its_place_is_told(tmp_path: Path):
    file = tmp_path / "judge.sqlite"
    file.write_text("answers to everything " * 100)
    with pytest.raises(UnreadableFileError, match="not a database"):
        AnswerCache(file).__enter__()
    with pytest.raises(InvalidInputError, match="is a folder"):
        AnswerCache(tmp_path).__enter__()
