"""Words of CESS-ESP as UD Spanish AnCora analyses them."""

import lzma
from collections import Counter, defaultdict

import pytest
import spacy

from beto_spacy.corpora.reader import convert, load_docs, read_docs
from beto_spacy.errors import FormatError
from beto_spacy.formats.cess import UNKNOWN, as_ancora, surface

FINITE = "Mood=Ind|Number=Sing|Person=3|Tense=Pres|VerbForm=Fin"


@pytest.mark.parametrize(
    "word, analysis",
    [
        (("La", "el", "DET", "da0fs0", "Gender=Fem|Number=Sing"),
         ("el", "DET", "Definite=Def|Gender=Fem|Number=Sing|PronType=Art")),
        (("del", "del", "ADP", "spcms", ""), ("de el", "ADP", "Definite=Def|Gender=Masc|Number=Sing|PronType=Art")),
        (("nuestra", "nuestro", "DET", "dp1fsp", "Gender=Fem|Number=Sing|Person=1"),
         ("nuestro", "DET", "Gender=Fem|Number=Sing|Number[psor]=Plur|Person=1|Poss=Yes|PronType=Prs")),
        (("sus", "su", "DET", "dp3cp0", "Number=Plur|Person=3"),
         ("su", "DET", "Number=Plur|Person=3|Poss=Yes|PronType=Prs")),
        (("doce", "doce", "DET", "dn0cp0", "Number=Plur"), ("doce", "NUM", "Number=Plur|NumType=Card")),
        (("3,5", "3.5", "NUM", "Z", ""), ("3,5", "NUM", "NumForm=Digit|NumType=Card")),
        (("(", "(", "PUNCT", "Fpa", ""), ("(", "PUNCT", "PunctSide=Ini|PunctType=Brck")),
        ((".", ".", "PUNCT", "Fp", ""), (".", "PUNCT", "PunctType=Peri")),
        (("rotas", "roto", "ADJ", "aq0fpp", "Gender=Fem|Number=Plur"),
         ("roto", "ADJ", "Gender=Fem|Number=Plur|VerbForm=Part")),
        (("tercera", "tercero", "ADJ", "ao0fs0", "Gender=Fem|Number=Sing"),
         ("tercero", "ADJ", "Gender=Fem|Number=Sing|NumType=Ord")),
        (("llueve", "llover", "VERB", "vmip3s0", FINITE), ("llover", "VERB", FINITE)),
        (("les", "él", "PRON", "pp3cpd00", "Number=Plur|Person=3"),
         ("él", "PRON", "Case=Dat|Number=Plur|Person=3|PronType=Prs")),
        (("Quito", "Quito", "PROPN", "np0000l", ""), ("Quito", "PROPN", "")),
    ],
)  # fmt: skip
def test_what_the_tag_says_becomes_features(word, analysis):
    found = as_ancora(*word)
    assert (found.lemma, found.pos) == analysis[:2]
    assert sorted(found.morph.split("|")) == sorted(analysis[2].split("|"))


def test_features_are_in_the_order_of_ud():
    features = as_ancora("nuestra", "nuestro", "DET", "dp1fsp", "Gender=Fem|Number=Sing|Person=1").morph.split("|")
    assert features == sorted(features, key=str.lower)


@pytest.mark.parametrize(
    "word",
    [
        ("un", "uno", "DET", "di0ms0", "Gender=Masc|Number=Sing"),  # an article or an indefinite
        ("alguno", "alguno", "PRON", "pi0ms000", "Gender=Masc|Number=Sing"),
        ("se", "se", "PRON", "p0000000", ""),
        ("lo", "el", "DET", "da0ns0", "Number=Sing"),
        ("lo", "él", "PRON", "pp3msa00", "Gender=Masc|Number=Sing|Person=3"),
        ("más", "más", "ADV", "rg", ""),
        ("mayor", "mayor", "ADJ", "aq0cs0", "Number=Sing"),
        ("debe", "deber", "VERB", "vmip3s0", FINITE),  # an auxiliary or not
        ("verlo", "ver", "VERB", "vmn0000", "VerbForm=Inf"),
        ("viéndola", "ver", "VERB", "vmg0000", "VerbForm=Ger"),
        ("prevé", "prever", "VERB", "vmm02s0", "Mood=Imp|Number=Sing|Person=2|VerbForm=Fin"),
        ("martes", "[martes:??/??/??:??.??]", "NOUN", "W", ""),
        ("dólares", "dólar", "NUM", "Zm", ""),
        ("b", "b", "PUNCT", "Fz", ""),
        ("media", "medio", "DET", "dn0fs0", "Gender=Fem|Number=Sing"),
        ("raro", "raro", "X", "", ""),
    ],
)
def test_where_guidelines_differ_nothing_is_known(word):
    assert as_ancora(*word) == UNKNOWN


def test_words_that_are_joined_are_several():
    assert surface("Costa_Rica") == ("Costa", "Rica")
    assert surface("-fe-") == ('"',)
    assert surface("_") == ("_",)


def rows(*words):
    return "\n".join("\t".join([str(i), *word, *"____"]) for i, word in enumerate(words, 1)) + "\n\n"


SENTENCES = rows(
    ("La", "el", "DET", "da0fs0", "Gender=Fem|Number=Sing"),
    ("niña", "niño", "NOUN", "ncfs000", "Gender=Fem|Number=Sing"),
    ("de", "de", "ADP", "sps00", "_"),
    ("Costa_Rica", "Costa_Rica", "PROPN", "np0000l", "_"),
    ("canta", "cantar", "VERB", "vmip3s0", FINITE),
    (".", ".", "PUNCT", "Fp", "_"),
) + rows(("Llueve", "llover", "VERB", "vmip3s0", FINITE), (".", ".", "PUNCT", "Fp", "_"))


def test_a_corpus_without_heads(tmp_path):
    source, dest = tmp_path / "own.conllu.xz", tmp_path / "cess.spacy"
    source.write_bytes(lzma.compress(SENTENCES.encode()))
    report = convert(source, dest, format="cess")
    assert (report.documents, report.sentences, report.tokens) == (1, 2, 9)
    doc = next(read_docs(dest, spacy.blank("es").vocab))
    assert doc.text == "La niña de Costa Rica canta. Llueve."
    assert [token.pos_ for token in doc] == ["DET", "NOUN", "ADP", "", "", "VERB", "PUNCT", "VERB", "PUNCT"]
    assert [token.lemma_ for token in doc] == ["el", "niño", "de", "", "", "cantar", ".", "llover", "."]
    assert [token.has_morph() for token in doc] == [bool(token.pos) for token in doc]
    assert [token.i for token in doc if token.is_sent_start] == [0, 7]
    assert not any(doc.has_annotation(layer) for layer in ("DEP", "TAG", "ENT_IOB"))


def test_packed_files_are_known_by_their_name_inside(tmp_path):
    path = tmp_path / "own.conllu.xz"
    path.write_bytes(lzma.compress(SENTENCES.encode()))
    assert len(load_docs(path, spacy.blank("es"))) == 1
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FormatError, match="can't be unpacked"):
        load_docs(path, spacy.blank("es"))


def test_another_treebank_is_none(tmp_path):
    path = tmp_path / "own.conllu"
    path.write_text(rows(("Llueve", "llover", "VERB", "_", FINITE)), encoding="utf8")
    with pytest.raises(FormatError, match="is empty"):
        convert(path, tmp_path / "x.spacy", format="cess")


def test_it_agrees_with_ancora(shared):
    """Of the forms that both have with the same part of speech, nearly all have AnCora's commonest features."""
    nlp = spacy.blank("es")
    ancora = defaultdict(Counter)
    for doc in load_docs(shared / "ud" / "ancora" / "es_ancora-ud-dev.conllu", nlp):
        for token in doc:
            ancora[token.lower_, token.pos_][frozenset(token.morph.to_dict().items())] += 1
    with lzma.open(shared / "ud" / "cess_esp.train.conllu.xz", "rt", encoding="utf8") as file:
        lines = [line.rstrip("\n").split("\t") for line in file if line[0] not in "#\n"]
    known = agreed = 0
    for _, form, lemma, pos, tag, morph, *_ in lines:
        if "_" in form:
            continue
        found = as_ancora(form, lemma, pos, tag, "" if morph == "_" else morph)
        seen = ancora.get((form.lower(), found.pos)) if found.pos else None
        if seen:
            known += 1
            agreed += seen.most_common(1)[0][0] == frozenset(tuple(f.split("=")) for f in found.morph.split("|") if f)
    assert known > 100_000
    assert agreed / known > 0.99
