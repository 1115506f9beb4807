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


def test_a_cache_is_used_by_one_process_at_a_time(tmp_path: Path):
    with AnswerCache(tmp_path / "c"), pytest.raises(InvalidInputError, match="in use by another"):
        AnswerCache(tmp_path / "c").__enter__()
    with AnswerCache(tmp_path / "c"):
        pass


def test_a_file_that_is_no_cache_is_left_alone(tmp_path: Path):
    (tmp_path / "c").write_text("not a database, but somebody's notes " * 100)
    with pytest.raises(UnreadableFileError, match="not a cache of a judge's answers"):
        AnswerCache(tmp_path / "c").__enter__()
    assert (tmp_path / "c").read_text().startswith("not a database")


def test_a_folder_is_no_cache(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="is a folder"):
        AnswerCache(tmp_path).__enter__()
