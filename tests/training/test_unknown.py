"""Characters that a vocabulary lacks: a copy of beto-mini without three signs, as BETO is, that is given them again."""

import json

import pytest
import spacy
import torch
from click.testing import CliRunner
from conftest import ROOT
from spacy.tokens import Doc, DocBin

from beto_spacy.cli.main import main
from beto_spacy.encoders.checkpoint import known_length, load_checkpoint
from beto_spacy.encoders.masked import load_masked_model
from beto_spacy.training.train import train
from beto_spacy.training.unknown import add_characters, find_unknown, render_unknown

SIGNS = ("%", "/", ";")
WORDS = "El 5 % de los casos ; y/o más".split(" ")


def without_signs(source, dest):
    """A copy of an encoder whose vocabulary lacks the signs, its pieces for them out of reach."""
    dest.mkdir()
    for file in source.iterdir():
        if file.suffix != ".md":
            (dest / file.name).write_bytes(file.read_bytes())
    state = json.loads((dest / "tokenizer.json").read_text(encoding="utf8"))
    vocabulary = state["model"]["vocab"]
    state["model"]["vocab"] = {f"[gone{n}]" if f.strip("#") in SIGNS else f: n for f, n in vocabulary.items()}
    (dest / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False), encoding="utf8")
    (dest / "vocab.txt").unlink()
    return dest


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    return without_signs(ROOT / "beto_spacy" / "encoders" / "beto-mini", tmp_path_factory.mktemp("lacking") / "mini")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve documents; in one of them there is an astronomical sign besides."""
    vocab = spacy.blank("es").vocab
    path = tmp_path_factory.mktemp("corpus") / "corpus.spacy"
    docs = [
        Doc(vocab, words=WORDS + ["☋"] * (i == 0), ents=["B-LOC"] + ["O"] * (len(WORDS) - (i != 0))) for i in range(12)
    ]
    DocBin(docs=docs, attrs=["ORTH", "SPACY", "ENT_IOB", "ENT_TYPE"]).to_disk(path)
    return path


def pieces_of(encoder, text):
    nlp = spacy.blank("es")
    nlp.add_pipe(
        "beto_transformer", config={"model": {"@architectures": "beto_spacy.Encoder.v1", "name": str(encoder)}}
    )
    nlp.initialize()
    return nlp(text)._.trf_data.wordpieces.strings[0][1:-1]


def test_what_is_lacking_is_counted(lacking, corpus):
    found = find_unknown(lacking, corpus)
    assert {c: n for c, n in found.counts.items() if c in SIGNS} == {"%": 12, "/": 12, ";": 12}
    assert found.words == 12 * 11 + 1  # y, / and o are three words to the tokenizer
    assert found.unknown == sum(found.counts.values())
    assert set(found.worth_adding()) == set(SIGNS)
    whole = find_unknown("beto-mini", [corpus])
    assert not set(SIGNS) & set(whole.counts) and whole.worth_adding() == []


def test_a_letter_makes_its_whole_word_unknown(lacking, tmp_path):
    vocab = spacy.blank("es").vocab
    DocBin(docs=[Doc(vocab, words=["ca\u1401\u1401a", "\u1401%"])]).to_disk(tmp_path / "c.spacy")
    found = find_unknown(lacking, tmp_path)
    assert found.counts == {"\u1401": 2, "%": 1} and (found.unknown, found.words) == (3, 3)


def test_the_signs_are_told_apart(lacking, corpus, tmp_path):
    text = " ".join(WORDS)
    assert pieces_of(lacking, text).count("[UNK]") == 3
    name, added = add_characters(lacking, tmp_path / "new", corpus)
    assert name == str(tmp_path / "new") and set(added) == set(SIGNS)
    assert pieces_of(name, text) == pieces_of("beto-mini", text)
    assert not set(find_unknown(name, corpus).counts) & set(SIGNS)

    old, new = load_checkpoint(lacking), load_checkpoint(name)
    before, after = (m.model.get_input_embeddings().weight.detach() for m in (old, new))
    assert len(after) - len(before) == 3 == new.model.config.vocab_size - old.model.config.vocab_size
    assert torch.equal(after[: len(before)], before)
    vocabulary = old.tokenizer.get_vocab()
    signs = [n for form, n in vocabulary.items() if len(form) == 1 and not form.isalnum()]
    expected = before[signs].mean(dim=0)
    assert torch.allclose(after[len(before) :], expected.expand(3, -1), atol=1e-3)  # saved in half precision
    assert known_length(new.model) == known_length(old.model) == 128


def test_the_prediction_head_grows_too(lacking, corpus, tmp_path):
    name, _ = add_characters(lacking, tmp_path / "new", corpus, ["%"])
    old, new = load_masked_model(lacking).model, load_masked_model(name).model
    bias = new.get_output_embeddings().bias
    assert len(bias) == len(old.get_output_embeddings().bias) + 1
    assert new.get_output_embeddings().weight is new.get_input_embeddings().weight


def test_an_encoder_without_a_prediction_head_is_given_pieces(encoders, corpus, tmp_path):
    found = find_unknown(encoders["bert"], corpus)
    assert {"%", "/"} <= set(found.worth_adding())
    name, added = add_characters(encoders["bert"], tmp_path / "new", corpus)
    assert {"%", "/"} <= set(added) and not set(find_unknown(name, corpus).worth_adding())


def test_nothing_to_add_leaves_no_folder(corpus, tmp_path):
    assert add_characters("beto-mini", tmp_path / "new", corpus) == ("beto-mini", [])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "albert"])
def test_other_vocabularies_are_only_counted(encoders, corpus, family):
    found = find_unknown(encoders[family], corpus)
    assert found.words >= 100 and found.worth_adding() == []


def test_the_list(lacking, corpus):
    done = CliRunner().invoke(main, ["unknown", str(lacking), str(corpus)])
    assert done.exit_code == 0 and "| % | U+0025 | 12 | 9.023% |" in done.output
    found = find_unknown(lacking, corpus)
    assert render_unknown(found).startswith(f"{found.unknown} of 133 words (")
    assert f"{len(found.counts) - 1} more characters" in render_unknown(found, most=1)
    missing = CliRunner().invoke(main, ["unknown", "beto-mini", "nowhere.spacy"])
    assert missing.exit_code == 1 and "B210" in missing.output


def test_the_training_reads_the_encoder_with_the_pieces(lacking, corpus, tmp_path):
    settings = {
        "paths.train": str(corpus),
        "paths.dev": str(corpus),
        "nlp.pipeline": ["transformer", "ner", "doc_cleaner"],
        "training.batcher.size": 20,
    }
    encoders = {}
    for encoder in (str(lacking), "beto-mini"):
        output = tmp_path / encoder.rpartition("/")[2]
        overrides = {**settings, "paths.encoder": encoder}
        chosen = train(CONFIG, output, updates=1, evaluations=1, add_wordpieces="auto", overrides=overrides)
        encoders[encoder] = chosen.get("paths.encoder")
        nlp = spacy.load(output / "model-last")
        assert "[UNK]" not in _strings(nlp, " ".join(WORDS))
    assert encoders == {str(lacking): str(tmp_path / "mini" / "encoder"), "beto-mini": None}
    assert not (tmp_path / "beto-mini" / "encoder").exists()


CONFIG = ROOT / "configs" / "train.cfg"


def _strings(nlp, text):
    doc = nlp.get_pipe("transformer")(nlp.make_doc(text))
    return doc._.trf_data.wordpieces.strings[0]
