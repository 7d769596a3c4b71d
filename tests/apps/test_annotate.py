"""What `render_doc` prints: a row a token, whatever the tokens are."""

import spacy
from spacy.tokens import Doc, Span

from beto_spacy.apps.annotate import render_doc


def test_a_row_a_token():
    nlp = spacy.blank("es")
    doc = Doc(nlp.vocab, words=["Ana", "ríe"], lemmas=["Ana", "reír"], pos=["PROPN", "VERB"])
    doc.set_ents([Span(doc, 0, 1, "PER")])
    doc.cats = {"N": 0.25, "P": 0.75}
    lines = render_doc(doc).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["token", "lemma", "pos", "tag", "morph", "dep", "head"],
        ["Ana", "Ana", "PROPN"],
    ]
    assert lines[-2:] == ["entities: Ana (PER)", "categories: P 0.75, N 0.25"]


def test_whitespace_breaks_no_row():
    nlp = spacy.blank("es")
    words = ["a", "\t", "\r\n", "b"]
    doc = Doc(nlp.vocab, words=words, lemmas=words, heads=[1, 2, 2, 2], deps=["x", "x", "ROOT", "x"])
    doc.set_ents([Span(doc, 0, 4, "LOC")])
    lines = render_doc(doc).split("\n")
    assert len(lines) == 1 + 4 + 2 and not any(sign in line for line in lines for sign in "\t\r")
    assert lines[1].split() == ["a", "a", "x", "⇥"] and lines[-1] == "entities: a ⇥ ␍⏎ b (LOC)"


def test_nothing_to_show():
    assert render_doc(spacy.blank("es")("")).splitlines()[-1] == "entities: none"
    assert len(render_doc(spacy.blank("es")(" ")).splitlines()) >= 3
