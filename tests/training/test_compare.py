"""Comparing trainings: all of them are run, scored and tabulated, and none twice."""

import json
import statistics

import pytest
import spacy
from click.testing import CliRunner
from conftest import ROOT
from spacy.cli.train import train as spacy_train

from beto_spacy.cli.main import main
from beto_spacy.corpora.reader import convert
from beto_spacy.errors import ProjectError
from beto_spacy.training.compare import compare_trainings, parse_variant, render_comparison

CONFIG = ROOT / "configs" / "train.cfg"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    convert([ROOT / "corpus" / "sample" / "dev.iob"], folder / "entities.spacy")
    return folder / "entities.spacy"


def compare(corpus, encoder, output, variants, seeds=(0, 1)):
    overrides = {
        "paths.train": str(corpus),
        "paths.dev": str(corpus),
        "paths.encoder": encoder,
        "nlp.pipeline": ["transformer", "ner", "doc_cleaner"],
        "training.max_steps": 2,
        "training.eval_frequency": 2,
    }
    return compare_trainings(CONFIG, variants, [corpus], output, seeds=seeds, overrides=overrides, calibrate=[corpus])


def test_variants_and_seeds_are_compared_once(corpus, encoders, tmp_path):
    variants = {"stock": {}, "wide": {"components.ner.model.learn_rate_factor": 3.0}}
    found = compare(corpus, encoders["bert"], tmp_path, variants)
    assert found == json.loads((tmp_path / "comparison.json").read_text(encoding="utf8"))
    measure = "entities: Entities (micro F1)"
    for name in variants:
        assert len(found["variants"][name]["scores"][measure]) == 2
        assert len(found["variants"][name]["scores"]["entities: Confidence of entities (calibration error)"]) == 2
    table = (tmp_path / "comparison.md").read_text(encoding="utf8")
    mean = statistics.mean(found["variants"]["wide"]["scores"][measure])
    assert f"| {measure} |" in table and f"{mean:.1f} (" in table and "wide − stock" in table
    runs = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "runs").iterdir()}
    assert set(runs) == {"stock-0.json", "stock-1.json", "wide-0.json", "wide-1.json"}  # the models are gone
    variants["wide"] = {"components.ner.model.learn_rate_factor": 2.0}
    compare(corpus, encoders["bert"], tmp_path, variants, seeds=(0,))
    again = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "runs").iterdir()}
    assert [name for name in runs if again[name] != runs[name]] == ["wide-0.json"]


def test_spacys_default_without_a_transformer_is_a_variant(corpus, encoders, tmp_path, monkeypatch):
    trained = []

    def train(config, output, *, use_gpu, overrides):
        trained.append((spacy.util.load_config(config, overrides=overrides), overrides))
        return spacy_train(config, output, use_gpu=use_gpu, overrides={**overrides, "training.max_steps": 2})

    monkeypatch.setattr("spacy.cli.train.train", train)
    variants = {"ours": {}, "cnn": {"spacy_default.pipeline": ["ner"]}}
    found = compare(corpus, encoders["bert"], tmp_path, variants, seeds=(3,))
    config, overrides = trained[1]
    assert overrides == {"paths.train": str(corpus), "paths.dev": str(corpus), "system.seed": 3}
    assert config["nlp"]["lang"] == "es" and config["nlp"]["pipeline"] == ["tok2vec", "ner"]
    assert config["training"]["max_steps"] == 20000 and config["training"]["patience"] == 1600
    for name in variants:
        assert len(found["variants"][name]["scores"]["entities: Entities (micro F1)"]) == 1
        assert found["variants"][name]["minutes"][0] >= 0
    assert "| Minutes of training | " in render_comparison(found)
    compare(corpus, encoders["bert"], tmp_path, variants, seeds=(3,))
    assert len(trained) == 2


def test_the_table():
    scores = {"a": [50.0, 52.0], "b": [60.0, 61.0]}
    comparison = {"seeds": [0, 1], "variants": {name: {"scores": {"F": values}} for name, values in scores.items()}}
    assert "| F | 51.0 (50.0 to 52.0) | 60.5 (60.0 to 61.0) | +9.5 |" in render_comparison(comparison)
    comparison["variants"]["b"]["scores"]["G"] = [1.0, 1.0]
    assert "| G |  | 1.0 (1.0 to 1.0) |  |" in render_comparison(comparison)


def test_variants_are_read():
    assert parse_variant("a") == ("a", {})
    assert parse_variant('b:x.y=3;x.z="3";p.q=beto-mini') == ("b", {"x.y": 3, "x.z": "3", "p.q": "beto-mini"})
    for text in ("a:b", "a:b=3", "a:=3"):
        with pytest.raises(ProjectError, match="B542"):
            parse_variant(text)


def test_two_variants_of_one_name_are_refused():
    arguments = ["compare", str(CONFIG), "corpus", "--variant", "a:x.y=1", "--variant", "a:x.y=2", "--output", "out"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "Two variants have the same name" in result.output


def test_what_cannot_be_compared(corpus, encoders, tmp_path):
    for variants, seeds in (({}, (0,)), ({"a": {}}, ()), ({"a/b": {}}, (0,))):
        with pytest.raises(ProjectError, match="B540"):
            compare_trainings(CONFIG, variants, [corpus], tmp_path, seeds=seeds)
    with pytest.raises(ProjectError, match="B541.*failed"):
        compare(corpus, encoders["bert"], tmp_path, {"a": {"components.ner.factory": "nothing"}}, seeds=(0,))
