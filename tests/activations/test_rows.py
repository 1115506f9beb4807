from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bae_ray.activations.rows import Rows

WIDTH = 3

LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(lambda lengths: sum(lengths) > 0)


def pieces_of(lengths: list[int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    whole = torch.arange(sum(lengths) * WIDTH).view(-1, WIDTH).to(dtype)
    return list(whole.split(lengths))


@pytest.fixture(params=[[20], [7, 1, 12], [0, 11, 0, 9]], ids=str)
def pieces(request: pytest.FixtureRequest) -> list[Tensor]:
    return pieces_of(request.param)


def test_they_are_as_many_as_the_pieces_have(pieces: list[Tensor]):
    rows = Rows(pieces)
    assert len(rows) == 20
    assert rows.shape == (20, WIDTH)


def test_all_of_them_are_the_pieces_in_order(pieces: list[Tensor]):
    assert torch.equal(Rows(pieces).take(torch.arange(20)), torch.cat(pieces))


def test_some_are_taken_in_the_order_asked_for(pieces: list[Tensor]):
    wanted = torch.tensor([19, 0, 7, 7, 6, 8, 0])
    assert torch.equal(Rows(pieces).take(wanted), torch.cat(pieces)[wanted])


def test_none_are_taken(pieces: list[Tensor]):
    assert Rows(pieces).take(torch.tensor([], dtype=torch.long)).shape == (0, WIDTH)


@pytest.mark.parametrize("batch_size", [1, 6, 20, 100])
def test_split_gives_batches_in_order(pieces: list[Tensor], batch_size: int):
    batches = list(Rows(pieces).split(batch_size))
    expected = list(torch.cat(pieces).split(batch_size))
    assert [len(batch) for batch in batches] == [len(batch) for batch in expected]
    assert torch.equal(torch.cat(batches), torch.cat(expected))


@pytest.mark.parametrize("lengths", [[9], [2, 4, 3]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_become_single(lengths: list[int], dtype: torch.dtype):
    pieces = [piece + 0.25 for piece in pieces_of(lengths, dtype)]
    taken = Rows(pieces).take(torch.arange(9))
    assert taken.dtype == torch.float32
    assert torch.equal(taken, torch.cat(pieces).float())
    assert all(batch.dtype == torch.float32 for batch in Rows(pieces).split(4))


def test_a_selection_is_rows_too(pieces: list[Tensor]):
    selected = Rows(pieces).select(torch.tensor([5, 19, 2, 2]))
    assert (len(selected), selected.shape) == (4, (4, WIDTH))
    assert torch.equal(selected.take(torch.tensor([3, 1])), torch.cat(pieces)[[2, 19]])
    assert torch.equal(torch.cat(list(selected.split(3))), torch.cat(pieces)[[5, 19, 2, 2]])


def test_a_selection_leaves_the_rows_it_is_of(pieces: list[Tensor]):
    rows = Rows(pieces)
    rows.select(torch.tensor([1]))
    assert len(rows) == 20


def test_what_is_taken_is_a_copy(pieces: list[Tensor]):
    before = torch.cat(pieces)
    Rows(pieces).take(torch.arange(20)).fill_(-1)
    assert torch.equal(torch.cat(pieces), before)


@given(st.data(), LENGTHS, st.sampled_from([torch.float32, torch.bfloat16]))
@settings(deadline=None)
def test_any_selections_and_orders_are_those_of_one_tensor(data: st.DataObject, lengths: list[int], dtype: torch.dtype):
    rows, whole = Rows(pieces_of(lengths, dtype)), torch.cat(pieces_of(lengths, dtype)).float()
    for _ in range(data.draw(st.integers(0, 3))):
        chosen = torch.tensor(data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=12)))
        rows, whole = rows.select(chosen), whole[chosen]
    wanted = torch.tensor(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=12)), dtype=torch.long)
    assert (len(rows), rows.shape) == (len(whole), tuple(whole.shape))
    assert torch.equal(rows.take(wanted), whole[wanted])
    batch_size = data.draw(st.integers(1, 20))
    assert [batch.tolist() for batch in rows.split(batch_size)] == [part.tolist() for part in whole.split(batch_size)]


@pytest.mark.parametrize("lengths", [[5], [2, 3]])
def test_rows_that_are_not_there_are_refused(lengths: list[int]):
    with pytest.raises(IndexError):
        Rows(pieces_of(lengths)).take(torch.tensor([5]))


def test_memory_mapped_pieces(tmp_path: Path):
    for number, piece in enumerate(pieces_of([4, 5], torch.bfloat16)):
        (tmp_path / f"{number}").write_bytes(piece.view(torch.uint8).numpy().tobytes())
    pieces = [
        torch.from_file(str(tmp_path / f"{number}"), size=length * WIDTH, dtype=torch.bfloat16).view(length, WIDTH)
        for number, length in enumerate((4, 5))
    ]
    assert torch.equal(Rows(pieces).take(torch.tensor([8, 0, 4])), torch.cat(pieces)[[8, 0, 4]].float())
