"""Extractions of every kind of position, site and input, against one unbatched forward pass per text."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from bae_ray import train
from bae_ray.activations.config import ExtractConfig, ICLInput, RandomTokensInput, TokensConfig, WindowsInput
from bae_ray.activations.extract import extract
from bae_ray.activations.store import ActivationStore
from bae_ray.analysis.accuracy import accuracy
from bae_ray.autoencoders import BAEConfig, TranscoderConfig
from bae_ray.errors import InvalidInputError
from bae_ray.training.config import TrainingConfig
from bae_ray.training.grid import plan_run
from bae_ray.training.run_execution import execute_run

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def run(tiny_config: ExtractConfig, tmp_path: Path) -> Callable[..., ActivationStore]:
    """Extract with these changes of the tiny config."""

    def run(**changes: object) -> ActivationStore:
        store = extract(
            ExtractConfig.model_validate({**tiny_config.model_dump(), **changes}), tmp_path / "store", "inline"
        )
        store.verify()
        return store

    return run


@pytest.fixture(scope="session")
def hidden_states(tiny_model: Path) -> Callable[[np.ndarray], tuple[Tensor, ...]]:
    """Hidden states [T, d] by layer of one text, alone in its batch."""
    model = AutoModel.from_pretrained(tiny_model)

    def hidden_states(ids: np.ndarray) -> tuple[Tensor, ...]:
        with torch.no_grad():
            states = model(torch.tensor([ids.tolist()]), output_hidden_states=True).hidden_states
        return tuple(layer[0] for layer in states)

    return hidden_states


def test_last_token_of_texts_of_any_length(run, hidden_states):
    store = run(positions=("last", 0), layers=(1, 3), batch_size=7)
    assert store.manifest.request.positions == (0, "last")
    texts = store.texts
    assert len(texts) == 200
    assert texts["token_ids"].map(len).nunique() > 10
    for row, ids in enumerate(texts["token_ids"]):
        hidden = hidden_states(ids)
        for layer in (1, 3):
            torch.testing.assert_close(store.matrix(layer, "last")[row], hidden[layer][-1], rtol=0, atol=1e-5)
            torch.testing.assert_close(store.matrix(layer, 0)[row], hidden[layer][0], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_texts_too_long_for_their_last_token_are_left_out(run):
    store = run(positions=("last",), layers=(1,), max_tokens=10)
    lengths = store.texts["token_ids"].map(len)
    assert lengths.max() == 10
    assert store.manifest.texts_too_long == 200 - len(lengths) > 0


def test_all_tokens(run, hidden_states):
    store = run(positions=("all",), layers=(0, 2), max_tokens=15)
    rows, texts = store.rows, store.texts
    assert len(rows) == store.manifest.n == store.manifest.tokens == texts["token_ids"].map(len).sum()
    assert texts["token_ids"].map(len).max() == 15
    expected = [(text_id, i, token) for text_id, ids in zip(texts["text_id"], texts["token_ids"], strict=True)
                for i, token in enumerate(ids)]  # fmt: skip
    assert list(rows.itertuples(index=False, name=None)) == expected
    hidden = [hidden_states(ids) for ids in texts["token_ids"]]
    for layer in (0, 2):
        whole = torch.cat([states[layer] for states in hidden])
        torch.testing.assert_close(store.matrix(layer, "all"), whole, rtol=0, atol=1e-5)


def test_some_tokens_of_each_text_up_to_a_number(run, hidden_states):
    tokens = TokensConfig(per_text=3, first=False, max_vectors=100, seed=1)
    store = run(positions=("all",), layers=(2,), tokens=tokens.model_dump())
    rows, texts = store.rows, store.texts
    assert store.manifest.n == len(rows) == len(store.matrix(2, "all")) == 100
    assert store.manifest.request.tokens == tokens.model_dump()
    assert rows["position"].min() >= 1
    assert rows.groupby("text_id").size().max() == 3
    assert store.manifest.texts_read < 200, "no further than needed"
    by_id = {text_id: hidden_states(ids)[2] for text_id, ids in zip(texts["text_id"], texts["token_ids"], strict=True)}
    whole = torch.stack([by_id[row.text_id][row.position] for row in rows.itertuples()])
    torch.testing.assert_close(store.matrix(2, "all"), whole, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_powers_of_two(run):
    assert run(powers_of_two=9, layers=(0,)).manifest.request.positions == (1, 2, 4, 8)


@pytest.mark.slow
def test_how_shards_and_batches_are_cut_changes_no_vector(run, tiny_config: ExtractConfig, tmp_path: Path):
    one = run(positions=("all",), layers=(3,))
    cut = {"batch_size": 3, "batch_tokens": 20, "shard_size": 11}
    config = ExtractConfig.model_validate({**tiny_config.model_dump(), "positions": ("all",), "layers": (3,), **cut})
    many = extract(config, tmp_path / "many", "inline")
    assert len(many.manifest.shards) > len(one.manifest.shards)
    torch.testing.assert_close(many.matrix(3, "all"), one.matrix(3, "all"), rtol=0, atol=1e-5)
    assert many.rows.equals(one.rows)


def test_sites_share_their_rows(run, tiny_model: Path):
    store = run(sites=("mlp_out", "residual", "mlp_in"), layers=(0, 2), positions=(3,))
    assert len(store.cells) == 6
    model = AutoModel.from_pretrained(tiny_model)
    ids = torch.tensor(np.stack(store.rows["token_ids"].to_numpy()).tolist())
    seen: dict[str, Tensor] = {}
    model.layers[2].mlp.register_forward_hook(lambda _m, args, out: seen.update({"mlp_in": args[0], "mlp_out": out}))
    with torch.no_grad():
        model(ids)
    for site in ("mlp_in", "mlp_out"):
        torch.testing.assert_close(store.matrix(2, 3, site), seen[site][:, 3], rtol=0, atol=1e-5)


def test_a_transcoder_learns_from_an_mlps_input_to_its_output(run, tmp_path: Path):
    store = run(sites=("mlp_in", "mlp_out"), layers=(1,), positions=("all",))
    plan = plan_run(
        store, store.cells[0], TranscoderConfig(expansion=8), TrainingConfig(epochs=150, lr=5e-3, batch_size=128)
    )
    assert (plan.cell.site, plan.target and plan.target.site) == ("mlp_in", "mlp_out")
    assert execute_run(plan, store, tmp_path / "runs").fvu_val < 0.2


def test_windows(run, hidden_states):
    store = run(input=WindowsInput(length=12).model_dump(), positions=(5, 11), layers=(2,))
    texts = store.texts
    assert set(texts["token_ids"].map(len)) == {12}
    assert store.manifest.texts_too_short == 0
    for row, ids in enumerate(texts["token_ids"]):
        torch.testing.assert_close(store.matrix(2, 11)[row], hidden_states(ids)[2][11], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_windows_are_computed_up_to_the_last_wanted_position(run, hidden_states, tiny_model: Path):
    """What comes after it changes no vector: the whole windows, which their texts spell, are the oracle."""
    store = run(input=WindowsInput(length=12).model_dump(), positions=(2, 5), layers=(2,))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert set(store.texts["token_ids"].map(len)) == {6}
    assert store.manifest.tokens == 6 * store.manifest.texts
    for row, text in enumerate(store.texts["text"]):
        whole = np.array(tokenizer(text)["input_ids"])
        assert len(whole) == 12
        torch.testing.assert_close(store.matrix(2, 5)[row], hidden_states(whole)[2][5], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_windows_say_what_they_are_cut_out_of(run, tiny_texts: list[str], tmp_path: Path, capsys):
    (tmp_path / "a.txt").write_text("\n".join([*tiny_texts[:50], "", " ", *tiny_texts[50:]]))
    store = run(input=WindowsInput(length=8).model_dump(), positions=(0,), layers=(0,), corpus=str(tmp_path / "a.txt"))
    sizes = [len(text.split()) for text in tiny_texts]
    said = (
        f"200 texts of {min(sizes)} to {max(sizes)} tokens, {sum(sizes) / 200:.0f} on average, an end token between "
        "two if they are joined; 2 empty ones are left out. Each line of a .txt file is a text; with --txt document "
        "each file is one."
    )
    assert f"Plan: windows of {said}\n" in capsys.readouterr().err
    assert str(store.manifest.windowed) == said


def test_random_sequences(run, hidden_states):
    chosen = RandomTokensInput(bits=6, tokens=(4, 9), seed=2)
    store = run(input=chosen.model_dump(), positions=(3,), layers=(1,), max_texts=300)
    ids = np.stack([[int(word[1:]) + 1 for word in text.split()] for text in store.rows["text"]])
    assert ids.shape == (300, 6)
    assert np.array_equal(np.stack(store.rows["token_ids"].to_numpy()), ids[:, :4]), "cut after what is wanted"
    assert set(ids.ravel()) == {4, 9}
    torch.testing.assert_close(store.matrix(1, 3)[7], hidden_states(ids[7])[1][3], rtol=0, atol=1e-5)


@pytest.fixture(scope="session")
def labelled(tiny_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny texts with labels 0 to 2."""
    file = tmp_path_factory.mktemp("labelled") / "texts.jsonl"
    lines = [json.dumps({"text": text, "label": i % 3}) + "\n" for i, text in enumerate(tiny_texts)]
    file.write_text("".join(lines))
    return file


@pytest.mark.parametrize("demonstrations", ["sampled", "fixed"])
def test_answers_to_prompts_are_those_of_the_whole_model(
    run, labelled: Path, tiny_causal_model: Path, demonstrations: str
):
    words = ("w3", "w14", "w15")
    chosen = ICLInput(k=2, demonstrations=demonstrations, label_words=words, text_prefix="w50 ", label_prefix="w51 ")  # pyright: ignore[reportArgumentType]
    store = run(
        input=chosen.model_dump(), corpus=str(labelled), model=str(tiny_causal_model), positions=("last",),
        layers=(1, 3), batch_size=5, max_texts=60, max_tokens=64,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny_causal_model)
    label_ids = AutoTokenizer.from_pretrained(tiny_causal_model).convert_tokens_to_ids(list(words))
    texts, answers = store.texts, store.predictions
    assert answers["text_id"].tolist() == texts["text_id"].tolist()
    assert answers["label"].tolist() == [query % 3 for query in texts["query"]]
    right = 0
    for row, ids in enumerate(texts["token_ids"]):
        assert ids[-1] == 52, "the prompt ends with the label's prefix, w51"
        with torch.no_grad():
            out = model(torch.tensor([ids.tolist()]), output_hidden_states=True)
        logits = out.logits[0, -1]
        assert answers["predicted"][row] == logits[label_ids].argmax()
        assert answers["predicted_token"][row] == logits.argmax()
        assert answers["label_token"][row] == label_ids[answers["label"][row]]
        right += int(logits[label_ids].argmax() == answers["label"][row])
        torch.testing.assert_close(store.matrix(1, "last")[row], out.hidden_states[1][0, -1], rtol=0, atol=1e-5)
        torch.testing.assert_close(store.matrix(3, "last")[row], out.hidden_states[3][0, -1], rtol=0, atol=1e-5)
    assert accuracy(answers, 3).label_accuracy == pytest.approx(right / len(answers))


@pytest.mark.slow
@pytest.mark.parametrize("positions", [(1,), ("all",)])
def test_answers_do_not_depend_on_the_positions(
    run, labelled: Path, tiny_causal_model: Path, tiny_config: ExtractConfig, tmp_path: Path, positions: tuple
):
    """A prompt is read to its end, whatever else is wanted of it."""
    chosen = ICLInput(k=1, label_words=("w3", "w14", "w15"), text_prefix="w50 ", label_prefix="w51 ").model_dump()
    changes = {
        "input": chosen,
        "corpus": str(labelled),
        "model": str(tiny_causal_model),
        "layers": (1,),
        "max_texts": 30,
    }
    store = run(**changes, positions=positions)
    last = ExtractConfig.model_validate({**tiny_config.model_dump(), **changes, "positions": ("last",)})
    assert store.predictions.equals(extract(last, tmp_path / "last", "inline").predictions)
    assert store.predictions["predicted_token"].nunique() > 1


def test_model_without_a_head_cannot_answer(run, labelled: Path):
    chosen = ICLInput(k=1, label_words=("w3", "w14", "w15"))
    with pytest.raises(InvalidInputError, match="has no language-model head, so it cannot answer prompts"):
        run(input=chosen.model_dump(), corpus=str(labelled), positions=("last",), layers=(1,), max_texts=20)


def test_texts_have_no_predictions(tiny_store: Path):
    with pytest.raises(InvalidInputError, match="is of texts, which have no labels"):
        _ = ActivationStore.open(tiny_store).predictions


def test_all_tokens_can_be_trained_on(run):
    x = run(positions=("all",), layers=(2,)).matrix(2, "all")
    assert train(x, BAEConfig(), TrainingConfig(epochs=2)).all.n == len(x)


@pytest.mark.slow  # the compiler takes most of a minute
def test_compiled_extraction(run, tiny_store: Path):
    store = run(compile=True)
    for cell in store.cells:
        whole = ActivationStore.open(tiny_store).matrix(cell.layer, cell.position)
        torch.testing.assert_close(store.matrix(cell.layer, cell.position), whole, rtol=0, atol=1e-5)
