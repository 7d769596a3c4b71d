"""The sample corpus: three layers of the same sentences, complete, and with the phenomena it promises."""

import re
from pathlib import Path

import pytest
import spacy

from beto_spacy.corpora.reader import TOKEN_LAYERS, convert, load_docs
from beto_spacy.formats.records import read_records

SAMPLE = Path(__file__).resolve().parents[2] / "corpus" / "sample"
SPLITS = ("train", "dev", "test")
SYNTAX = ("tags", "pos", "morphs", "lemmas", "deps")
LAYERS = {"conllu": SYNTAX, "iob": ("tags", "entities"), "tsv": ("cats",)}
VOSEO = re.compile(r"(?:[áéí]s|sos)$")


def records(split, layer, **options):
    return list(read_records(SAMPLE / f"{split}.{layer}", **options))


@pytest.fixture(scope="module")
def sentences():
    """The records of CoNLL-U of all splits."""
    return [record for split in SPLITS for record in records(split, "conllu")]


@pytest.fixture(scope="module")
def rows(sentences):
    """The lines of CoNLL-U of all splits, split into columns."""
    files = ((SAMPLE / f"{split}.conllu").read_text(encoding="utf8").splitlines() for split in SPLITS)
    return [line.split("\t") for lines in files for line in lines if line and not line.startswith("# ")]


@pytest.fixture(scope="module")
def entities():
    return [(r.text[start:end], label) for s in SPLITS for r in records(s, "iob") for start, end, label in r.entities]


@pytest.mark.parametrize("split", SPLITS)
def test_the_layers_have_the_same_sentences(split):
    syntax, entities, sentiment = (records(split, layer) for layer in LAYERS)
    assert len(syntax) == len(entities) == len(sentiment) > 30
    assert [(r.id, r.text) for r in syntax] == [(r.id, r.text) for r in sentiment]
    assert [(r.words, r.tags) for r in syntax] == [(r.words, r.tags) for r in entities]


def test_ids_are_unique(sentences):
    ids = [record.id for record in sentences]
    assert len(set(ids)) == len(ids) > 300
    assert len({record.text for record in sentences}) == len(ids)
    assert all(re.fullmatch(r"(?:news|review|dialogue)-\d{3}", name) for name in ids)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("layer", LAYERS)
def test_conversion_is_complete(tmp_path, split, layer):
    report = convert(SAMPLE / f"{split}.{layer}", tmp_path / "x.spacy", strict=True)
    assert report.problems == []
    for name in (*TOKEN_LAYERS, "cats"):
        whole = report.documents if name == "cats" else report.tokens
        assert report.layers[name] == (whole if name in LAYERS[layer] else 0), name


def test_spacy_tokenizes_it_alike():
    """So that what is trained on gold tokens meets the same tokens in use."""
    nlp = spacy.blank("es")
    same = total = 0
    for split in SPLITS:
        for doc in load_docs(SAMPLE / f"{split}.conllu", nlp):
            spans = [{(token.idx, token.idx + len(token)) for token in d} for d in (doc, nlp.make_doc(doc.text))]
            same += len(spans[0] & spans[1])
            total += len(spans[0])
    assert same / total > 0.99


def test_labels_are_closed_sets(entities):
    assert {label for _, label in entities} == {"PER", "LOC", "ORG", "MISC"}
    for split in SPLITS:
        assert {label for r in records(split, "tsv") for label, value in r.cats.items() if value} == {"P", "N", "NEU"}


def test_each_tag_has_its_parts_of_speech(rows):
    """The first letter of an EAGLES tag and the part of speech say the same."""
    allowed = {
        "A": "ADJ",
        "C": "CCONJ SCONJ",
        "D": "DET NUM",
        "F": "PUNCT SYM",
        "I": "INTJ",
        "N": "NOUN PROPN",
        "P": "PRON NUM ADV",
        "R": "ADV",
        "S": "ADP",
        "V": "VERB AUX",
        "W": "NUM",
        "Z": "NUM SYM",
    }
    wrong = [row for row in rows if "-" not in row[0] and row[3] not in allowed[row[4][0]].split()]
    assert wrong == []


def test_annotation_is_consistent(rows):
    """Choices that several hands made differently once."""
    words = [row for row in rows if "-" not in row[0]]
    for _, form, lemma, pos, tag, feats, _, relation, *_ in words:
        assert "Degree=Sup" not in feats, form
        if pos == "PRON" and "PronType=Prs" in feats:
            assert (tag == "P0") == ("Reflex=Yes" in feats), form
        if relation == "expl:impers":
            assert not feats.startswith("Case="), form
        if pos == "PROPN":
            assert lemma == form
    lemmas = {}
    for row in words:
        lemmas.setdefault((row[1].lower(), row[3]), set()).add(row[2].lower())
    assert {key: value for key, value in lemmas.items() if len(value) > 1} == {}


def forms(rows, pattern, *, pos=None):
    return {row[1] for row in rows if re.search(pattern, row[1]) and pos in (None, row[3])}


def test_the_phenomena_are_there(rows, entities, sentences):
    ranges = [row[1] for row in rows if "-" in row[0]]
    second = {row[1] for row in rows if "-" not in row[0] and "Person=2" in row[5] and "Number=Sing" in row[5]}
    assert len({form for form in second if VOSEO.search(form)}) >= 5, "voseo"
    assert {"vos", "Vos"} & {row[1] for row in rows}
    assert ranges.count("del") > 10 and ranges.count("al") > 10
    assert {"Dámelo", "Ponételo", "decírtelo", "contándotelo"} <= set(ranges), "two clitics"
    text = "\n".join(record.text for record in sentences)
    assert re.search(r"\b\d{1,2} de [a-z]+ de \d{4}\b", text) and re.search(r"\b\d{2}/\d{2}/\d{4}\b", text), "dates"
    assert re.search(r"\b\d+,\d\d €", text) and re.search(r"\d\.\d{3},\d\d pesos", text), "sums"
    emoji = forms(rows, "[\U0001f300-\U0001faff]", pos="SYM")
    assert any("\u200d" in form for form in emoji) and any(re.search("[\U0001f3fb-\U0001f3ff]", f) for f in emoji)
    people = {name for name, label in entities if label == "PER"}
    assert {"Tomás de la Cruz", "Beatriz del Río", "Hans von Bergen", "Sofía Von Bergen"} <= people
    assert forms(rows, r"^[«»]$") and forms(rows, "^@") and forms(rows, "^#") and forms(rows, "^[¿¡]$")
