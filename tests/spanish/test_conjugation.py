"""Infinitives from forms, and the lemmas of everyday Spanish."""

from pathlib import Path

import pytest
import spacy
from spacy.tokens import Doc

from beto_spacy.spanish.conjugation import guess, infinitives, participle

EVERYDAY = Path(__file__).parent / "everyday.txt"


@pytest.mark.parametrize(
    "form, infinitive",
    [line.split() for line in """
    hablás hablar\ncomés comer\nvivís vivir\nhablaremos hablar\nsaqué sacar\nllegué llegar\nempecé empezar
    averigüé averiguar\npienso pensar\nvuelvo volver\njuega jugar\nadquiere adquirir\nhuele oler\npido pedir
    durmió dormir\nsigo seguir\ncojo coger\nvenzo vencer\nconozco conocer\nconstruyo construir\ncayendo caer
    envío enviar\nactúa actuar\nprodujeron producir\nrecomiendo recomendar\nolvidés olvidar\ncomás comer
    """.strip().splitlines()],
)  # fmt: skip
def test_the_infinitive_is_among_the_proposals(form, infinitive):
    assert infinitive in infinitives(form)


def test_features_exclude_endings():
    assert "recomer" in infinitives("recomiendo", "VerbForm=Ger")
    assert "recomer" not in infinitives("recomiendo", "Mood=Ind|Tense=Pres|VerbForm=Fin")


@pytest.mark.parametrize(
    "form, infinitive",
    [("forwardea", "forwardear"), ("stalkeé", "stalkear"), ("wasapearía", "wasapear"), ("crusheó", "crushear"),
     ("bloguee", "bloguear"), ("che", ""), ("x", ""), ("", "")],
)  # fmt: skip
def test_new_verbs_are_of_the_first_class(form, infinitive):
    assert guess(form) == infinitive


@pytest.mark.parametrize(
    "form, infinitive",
    [("roto", "romper"), ("descubiertas", "descubrir"), ("satisfecha", "satisfacer"), ("devueltos", "devolver"),
     ("gato", "")],
)  # fmt: skip
def test_irregular_participles(form, infinitive):
    assert participle(form) == infinitive


def test_lemmas_of_everyday_spanish_without_features():
    nlp = spacy.blank("es")
    pipe = nlp.add_pipe("beto_lemmatizer")
    pipe.initialize(lambda: [], nlp=nlp)
    wrong, count = [], 0
    for line in EVERYDAY.read_text(encoding="utf8").splitlines():
        words, tags, lemmas = zip(*(item.split("/") for item in line.split()))
        doc = pipe(Doc(nlp.vocab, words=words, pos=tags))
        count += len(doc)
        gold = [lemma.replace("_", " ") for lemma in lemmas]
        wrong += [(t.text, t.lemma_, lemma) for t, lemma in zip(doc, gold) if t.lemma_ != lemma]
    assert count >= 350
    assert len(wrong) <= 0.01 * count, wrong
