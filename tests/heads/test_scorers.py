"""Scores of the parser over a mixed development set: documents without dependencies change nothing."""

import pytest
import spacy
from spacy.pipeline.dep_parser import parser_score
from spacy.tokens import Doc
from spacy.training import Example

from beto_spacy.heads.parser.scorer import make_parser_scorer


@pytest.fixture
def vocab():
    return spacy.blank("es").vocab


def parsed(vocab, heads, deps):
    words = ["Ana", "come", "pan", "hoy", "."]
    return Doc(vocab, words=words, heads=heads, deps=deps)


@pytest.fixture
def with_gold(vocab):
    gold = parsed(vocab, [1, 1, 1, 1, 1], ["nsubj", "ROOT", "obj", "advmod", "punct"])
    predicted = parsed(vocab, [1, 1, 1, 2, 1], ["nsubj", "ROOT", "iobj", "advmod", "punct"])
    return Example(predicted, gold)


@pytest.fixture
def without_gold(vocab):
    predicted = parsed(vocab, [1, 1, 1, 1, 1], ["nsubj", "ROOT", "obj", "advmod", "punct"])
    return Example(predicted, Doc(vocab, words=[token.text for token in predicted]))


def test_scores_by_hand(with_gold, without_gold):
    score = make_parser_scorer()
    one, other = with_gold, without_gold
    for examples in ([one], [other, one], [one, other], [other, other, other, one]):
        scores = score(examples)
        assert scores["dep_uas"] == pytest.approx(3 / 4)  # punctuation aside, one head of four is wrong
        assert scores["dep_las"] == pytest.approx(2 / 4)  # and one more label
        assert scores["sents_f"] == 1.0


def test_it_equals_spacys_where_that_is_right(with_gold):
    assert make_parser_scorer()([with_gold, with_gold]) == parser_score([with_gold, with_gold])


def test_spacys_own_is_misled(with_gold, without_gold):
    """Once this fails, spaCy has mended it, and this scorer can go."""
    assert parser_score([without_gold, with_gold])["dep_uas"] < 0.5


def test_no_gold_no_scores(without_gold):
    scores = make_parser_scorer()([without_gold])
    assert scores["dep_uas"] is None and scores["dep_las"] is None and scores["sents_f"] is None
