from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.table import Table

from bae_ray.report.results_writer import Results, write_results
from bae_ray.report.terminal import print_tables


def wide() -> Table:
    table = Table()
    for number in range(30):
        table.add_column(f"column {number}", no_wrap=True)
    table.add_row(*(["x" * 12] * 30))
    return table


def test_everything_is_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    results = Results(
        page="found.html",
        title="What was found",
        tables={"found.csv": pd.DataFrame({"bits": [1.25]}), "more.csv": pd.DataFrame({"fvu": [0.5]})},
        figures={"found.png": Figure(), "more.png": Figure()},
        printed=[wide()],
        notes=["Read this."],
        claims=["Paper: it rises. Here: it does."],
        remarks=["The judge cost nothing."],
        links=[tmp_path / "bae" / "features.html"],
        sections={"By estimator": pd.DataFrame({"estimator": ["rank"], "share": [0.375]})},
    )
    written = write_results(results, tmp_path, '{"out": "here"}')
    names = ["found.csv", "more.csv", "found.png", "more.png", "found.html"]
    assert written == [*(tmp_path / name for name in names), tmp_path / "bae" / "features.html"]
    assert all((tmp_path / name).exists() for name in names)
    assert (tmp_path / "more.csv").read_text() == "fvu\n0.5\n"
    page = (tmp_path / "found.html").read_text()
    for shown in (
        "What was found",
        "Read this.",
        "Paper: it rises.",
        "<td>1.25</td>",
        "<h2>By estimator</h2>",
        "<td>0.375</td>",
        'href="bae/features.html"',
    ):
        assert shown in page
    assert page.count("<svg") == 2
    assert "cost nothing" not in page
    *table, claim, remark = capsys.readouterr().out.splitlines()[: -len(written)]
    assert "x" * 12 in table[-2]
    assert (claim, remark) == (results.claims[0], results.remarks[0])


def test_the_page_may_have_a_table_of_its_own(tmp_path: Path):
    tables = {"found.csv": pd.DataFrame({"bits": [1.25]})}
    results = Results(page="p.html", title="", tables=tables, page_table=pd.DataFrame({"bits": [1.25, 7.75]}))
    write_results(results, tmp_path, "{}")
    assert "<td>7.75</td>" in (tmp_path / "p.html").read_text()


def test_paths_are_told_with_their_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tables, figures = {"a.csv": pd.DataFrame({"x": [1]})}, {"b.png": Figure()}
    write_results(Results(page="c.html", title="", tables=tables, figures=figures), tmp_path, "{}")
    assert capsys.readouterr().out.splitlines() == [
        f"table    {tmp_path / 'a.csv'}", f"picture  {tmp_path / 'b.png'}", f"page     {tmp_path / 'c.html'}",
    ]  # fmt: skip


def test_no_column_is_cut_off_where_the_terminal_is_narrow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "60")
    print_tables(wide())
    head, row = (line for line in capsys.readouterr().out.splitlines() if line[0] in "┃│")
    assert all(f"column {number} " in head for number in range(30))
    assert row.count("x" * 12) == 30
