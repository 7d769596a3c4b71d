"""Training with settings that follow from corpora and encoder."""

import json

import pytest
import spacy
from click.testing import CliRunner
from conftest import ROOT

from beto_spacy.cli.main import main
from beto_spacy.corpora.reader import convert, read_docs
from beto_spacy.encoders.checkpoint import resolve_encoder
from beto_spacy.errors import BetoError
from beto_spacy.training.train import LEAST_UPDATES, choose_settings, suitable_rate

CONFIG = ROOT / "configs" / "train.cfg"
RATE = "training.optimizer.learn_rate"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    convert([ROOT / "corpus" / "sample" / "dev.iob"], folder / "entities.spacy")
    return folder / "entities.spacy"


def settings(corpus, **options):
    overrides = {"paths.train": str(corpus), "training.batcher.size": 50, **options.pop("overrides", {})}
    return choose_settings(CONFIG, overrides=overrides, **options)


def test_updates_follow_from_passes(corpus):
    n_words = sum(map(len, read_docs(corpus, spacy.blank("es").vocab)))
    for passes in (1, 3):
        found = settings(corpus, passes=passes, evaluations=4)
        updates = found["training.max_steps"]
        assert abs(updates - passes * n_words / 50) <= 4
        assert updates % found["training.eval_frequency"] == 0 and updates == found[f"{RATE}.total_steps"]
        assert found[f"{RATE}.warmup_steps"] == max(1, round(updates / 10))
        assert found[f"{RATE}.initial_rate"] == 3e-4


def test_a_small_corpus_has_a_least_number_of_updates(corpus):
    assert LEAST_UPDATES <= settings(corpus)["training.max_steps"] < LEAST_UPDATES + 8


def test_what_is_stated_is_kept(corpus):
    found = settings(corpus, updates=7, learn_rate=0.001, overrides={"training.patience": 5})
    assert found["training.max_steps"] == 7 and found["training.eval_frequency"] == 1
    assert found[f"{RATE}.initial_rate"] == 0.001 and "training.patience" not in found


def test_the_last_update_is_evaluated(corpus):
    for updates in range(1, 40):
        found = settings(corpus, updates=updates, evaluations=6)
        assert found["training.max_steps"] % found["training.eval_frequency"] == 0
        assert updates <= found["training.max_steps"]


def test_wider_encoders_learn_at_lower_rates(encoders, tmp_path):
    assert suitable_rate("beto-mini") == suitable_rate(encoders["bert"]) == 3e-4
    config = json.loads((ROOT / "beto_spacy/encoders/beto-mini/config.json").read_text(encoding="utf8"))
    rates = []
    for width in (512, 768, 1024):
        (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": width}), encoding="utf8")
        rates.append(suitable_rate(str(tmp_path)))
    assert 3e-4 > rates[0] > rates[1] == rates[2] == 5e-5


def test_settings_that_cannot_be(corpus, tmp_path):
    for options in ({"passes": 0}, {"updates": 0}, {"evaluations": 0}):
        with pytest.raises(BetoError, match="B570"):
            settings(corpus, **options)
    with pytest.raises(BetoError, match="B571"):
        choose_settings(tmp_path / "none.cfg")
    with pytest.raises(BetoError, match="B572"):
        settings(corpus, overrides={"corpora.train": {"@readers": "spacy.Corpus.v1", "path": str(corpus)}})
    with pytest.raises(BetoError, match="B210"):
        settings(tmp_path / "none.spacy")


def test_the_command_trains(corpus, encoders, tmp_path):
    arguments = ["train", str(CONFIG), "--output", str(tmp_path / "out"), "--updates", "2", "--evaluations", "1"]
    arguments += ["--paths.train", str(corpus), "--paths.dev", str(corpus), "--paths.encoder", encoders["bert"]]
    arguments += ["--nlp.pipeline", '["transformer","ner","doc_cleaner"]']
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "training.max_steps = 2" in done.output
    config = spacy.load(tmp_path / "out" / "model-best").config
    assert config["training"]["optimizer"]["learn_rate"]["total_steps"] == 2
    refused = CliRunner().invoke(main, [*arguments, "--passes", "many"])
    assert refused.exit_code == 2 and "neither a number nor 'auto'" in refused.output


def test_beto_mini_states_the_length_that_it_knows():
    config = json.loads((ROOT / "beto_spacy/encoders/beto-mini/config.json").read_text(encoding="utf8"))
    assert config["sequence_length"] == 128 < config["max_position_embeddings"]
    assert resolve_encoder("beto-mini")
