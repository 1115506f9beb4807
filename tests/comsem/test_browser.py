"""The feature browser in a real headless browser, on a run whose texts are hostile."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bae_ray.comsem.config import ComSemConfig, ExamplesConfig, ScoringConfig
from bae_ray.comsem.name_and_score import comsem
from bae_ray.comsem.summary import FEATURES_FILE
from bae_ray.report.feature_browser import _filled, publish_cards, report_features
from bae_ray.report.published_cards import read_card
from tests.browser import opened
from tests.comsem.server import JudgeServer, Reply, is_judgement, judgement, perfect

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def judge(body: dict[str, Any], times: int) -> Reply:
    """Finds right what is of an even word; an explanation carries HTML."""
    if not is_judgement(body):
        reply = perfect(body, times)
        return Reply(f"{reply.text} {HOSTILE}")
    token, _, description = judgement(body)
    if HOSTILE not in description:
        return perfect(body, times)
    return Reply("Yes" if token in description.split() and int(token[1:]) % 2 == 0 else "No", p_yes=0.5)


@pytest.fixture(scope="module")
def run(
    sentences_store: Path, word_autoencoder: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("browser")
    with JudgeServer(judge) as server:
        config = ComSemConfig(
            judge_url=server.url, autoencoders=(str(word_autoencoder),), store=str(sentences_store), layer=0,
            tokenizer=str(tiny_model), examples=ExamplesConfig(k=1, n_interpret=3, n_test=2, top=3, top_context=4),
            scoring=ScoringConfig(random_features=0, shuffled=4, max_features=57),
        )  # fmt: skip
        comsem(config, out)
    # A token as no tokenizer here would give it, into what was found.
    read = pq.read_table(out / "words" / "examples.parquet")
    position = read.schema.get_field_index("strongest")
    strongest = read["strongest"].to_pylist()
    strongest[7][0]["pieces"][strongest[7][0]["at"]] = HOSTILE
    replaced = read.set_column(position, "strongest", pa.array(strongest, read.schema.field(position).type))
    pq.write_table(replaced, out / "words" / "examples.parquet")
    report_features(out, json_features=True)
    return out / "words"


@pytest.fixture
def page(run: Path) -> Iterator[Any]:
    """The page opened in headless Chromium; everything it asks for and says is kept."""
    file = run / "features.html"
    with opened(file) as page:
        yield page
        assert page.said == []
        assert [url for url in page.asked if not url.startswith("data:")] == [file.as_uri()]
        assert page.title() == "Features of words", "text of the corpus or the judge was run"
        assert page.locator("img").count() == 0


def shown(page: Any) -> list[int]:
    return [int(text.removeprefix("#")) for text in page.locator(".card .number:first-child").all_inner_texts()]


def test_features_are_listed_by_score_and_searched(run: Path, page: Any):
    table = pd.read_parquet(run / FEATURES_FILE)
    active = table[table["active"]]
    assert page.locator("#count").inner_text() == f"{len(active)} of {len(active)} features"
    assert shown(page) == active.sort_values(["score", "feature"], ascending=[False, True])["feature"].tolist()[:100]
    page.fill("#search", "W17 ")
    assert shown(page) == [18]
    assert "the words w17" in page.locator(".card .name").inner_text()
    page.fill("#search", "nothing like this")
    assert page.locator("#count").inner_text() == f"0 of {len(active)} features"


@pytest.mark.parametrize(
    ("key", "column"), [("rate", "firing_rate"), ("entropy", "entropy_bits"), ("index", "feature")]
)
def test_features_are_sorted(key: str, column: str, run: Path, page: Any):
    table = pd.read_parquet(run / FEATURES_FILE)
    active = table[table["active"]]
    for ascending in (False, True):
        page.select_option("#sort", key)
        page.locator("#ascending").set_checked(ascending)
        expected = active.sort_values([column, "feature"], ascending=[ascending, True])["feature"].tolist()
        assert shown(page) == expected


def test_a_card_shows_its_tokens_by_magnitude(run: Path, page: Any):
    row = pq.read_table(run / FEATURES_FILE).to_pylist()[12]
    strongest = pq.read_table(run / "examples.parquet")["strongest"][12].as_py()
    page.fill("#search", "w11 ")
    page.click("#feature-12 button")
    card = page.locator("#feature-12")
    level = (
        ""
        if row["chance"] is None or math.isnan(row["chance"])
        else f", chance level {row['chance']:#.3g} (on another feature's tokens)"
    )
    assert (
        card.locator(".score").inner_text() == f"score {row['score']:#.3g} of {row['n_test']} held-out examples{level}"
    )
    assert f"fires on {100 * row['firing_rate']:#.3g} % of the tokens" in card.locator(".rate").inner_text()
    assert card.locator(".example:not(.weaker)").count() == 3
    first = card.locator(".example").first.locator("mark")
    assert first.all_text_contents() == list(strongest[0]["pieces"])
    assert card.locator(".example").first.locator("mark.strongest").all_text_contents()[0].strip() == "w11"
    strengths = [float(mark.evaluate("e => e.style.getPropertyValue('--strength')")) for mark in first.all()]
    values = [float(value) for value in strongest[0]["values"]]
    expected = [(value - min(values)) / (max(values) - min(values)) for value in values]
    assert strengths == pytest.approx(expected, abs=2e-3)
    assert page.locator("#histogram .here").count() == 1
    assert "feature 12 scores" in page.locator("#histogram-text").inner_text()


def test_a_feature_that_was_not_scored_shows_its_tokens_and_is_no_alarm(run: Path, page: Any):
    table = pd.read_parquet(run / FEATURES_FILE)
    feature = int(table[table["status"] == "unscored"]["feature"].iloc[0])
    page.fill("#search", f"#{feature}")
    assert shown(page) == [feature]
    card = page.locator(f"#feature-{feature}")
    assert card.locator(".name").inner_text() == f"w{feature - 1}"
    assert "not scored" in card.locator(".number").last.inner_text()
    page.click(f"#feature-{feature} button")
    assert card.locator(".warning").count() == 0
    assert card.locator(".example mark.strongest").count() >= 3


def test_a_card_shows_spread_quantiles_and_similar_features(run: Path, page: Any):
    found = pq.read_table(run / "examples.parquet")
    page.fill("#search", "#12")
    page.click("#feature-12 button")
    card = page.locator("#feature-12")
    counts = [int(bar.get_attribute("data-count")) for bar in card.locator(".spread div").all()]
    sample = found["sample"][12].as_py()
    assert sum(counts) == len(sample) == min(64, found["count"][12].as_py())
    assert (counts[0] > 0, counts[-1] > 0) == (True, sample[-1] > sample[0])
    assert card.locator(".example.weaker").count() == len(found["quantiles"][12].as_py()) > 0
    near = found["similar"][12].as_py()
    assert [text.split()[0] for text in card.locator(".similar").all_inner_texts()] == [
        f"#{n['feature']}" for n in near
    ]
    card.locator("button.similar").first.click()
    opened_one = next(n["feature"] for n in near if pd.read_parquet(run / FEATURES_FILE)["active"][n["feature"]])
    assert shown(page) == [opened_one]
    assert page.locator(".body").count() == 1


def test_results_of_earlier_versions_are_shown(run: Path, tmp_path: Path):
    shutil.copytree(run.parent, tmp_path / "out")
    file = tmp_path / "out" / "words" / "examples.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["sample", "quantiles", "similar", "promoted", "suppressed"]), file)
    (written,) = report_features(tmp_path / "out")
    with opened(written) as old:
        old.locator(".card > button").first.click()
        assert old.locator(".example").count() == 3
        assert old.locator(".spread").count() == 0
        assert old.said == []


def test_histogram_is_of_all_scores(run: Path, page: Any):
    table = pd.read_parquet(run / FEATURES_FILE)
    counts = [int(bar.get_attribute("data-count")) for bar in page.locator("#histogram div").all()]
    scores = table[table["active"]]["score"]
    assert (counts[0], counts[10], counts[-1]) == ((scores == 0).sum(), (scores == 0.5).sum(), (scores == 1).sum())


def test_hostile_text_is_text(page: Any):
    page.fill("#search", "onerror")
    page.click("#feature-7 button")
    assert page.locator("#feature-7 mark.strongest").first.text_content() == HOSTILE
    assert HOSTILE in page.locator("#feature-7 .name").inner_text()


def test_json_is_in_neuronpedias_form(run: Path):
    table = pd.read_parquet(run / FEATURES_FILE)
    files = {int(file.stem): json.loads(file.read_text()) for file in (run / "features").glob("*.json")}
    assert sorted(files) == table[table["active"]]["feature"].tolist()
    for index, record in files.items():
        assert (record["index"], record["layer"]) == (str(index), "0-words")
        scored = table["status"][index] == "scored"
        assert [one["description"][:11] for one in record["explanations"]] == ["the words w"] * scored
        for activation in record["activations"]:
            assert len(activation["tokens"]) == len(activation["values"])
            assert activation["maxValue"] == max(activation["values"])
            assert activation["values"][activation["maxValueTokenIndex"]] == activation["maxValue"]
            assert activation["tokens"][activation["activatedTokenIndex"]].strip() in (f"w{index - 1}", HOSTILE)


def test_published_cards_are_read_one_by_one(run: Path, word_autoencoder: Path, tmp_path: Path):
    shutil.copy(word_autoencoder / "model.safetensors", tmp_path)
    (file,) = publish_cards(run.parent, {"words": tmp_path})
    assert file.parent == tmp_path
    for index in (7, 8):
        card = read_card(tmp_path, index)
        assert card is not None
        assert card.record == json.loads((run / "features" / f"{index}.json").read_text())
    assert read_card(tmp_path, 10_000) is None
    assert read_card(run.parent, 7) is None
    page = tmp_path / "card.html"
    page.write_text(read_card(tmp_path, 7).page())  # pyright: ignore[reportOptionalMemberAccess]
    with opened(page) as shown_page:
        assert shown(shown_page) == [7]
        shown_page.locator(".card > button").click()
        assert HOSTILE in shown_page.locator(".body").inner_text()
        assert shown_page.locator("img").count() == 0
        assert shown_page.said == []
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises((OSError, ValueError)):
        read_card(tmp_path, 7)


def test_tokens_that_are_left_out_are_never_the_largest():
    """Burstiness is below 0, so that 0 in its place would be."""
    assert _filled([-0.5, math.nan, -3.0]) == [-0.5, -3.0, -3.0]
    assert _filled([0.5, math.nan, 2.0]) == [0.5, 0.0, 2.0]
