"""Accuracy by position: the counts of each bin, and its table in the report of an evaluation."""

import random

from spacy.tokens import Doc
from spacy.vocab import Vocab

from beto_spacy.evaluation.positions import bin_names, position_rows, position_scores
from beto_spacy.evaluation.run import render_markdown, score_docs

VOCAB = Vocab()


def edge(position):
    """The bin of a position, by hand."""
    for end, name in ((32, "0-31"), (64, "32-63"), (128, "64-127"), (256, "128-255"), (512, "256-511")):
        if position < end:
            return name
    return "512+"


def test_bins_are_counted_as_by_hand():
    chance = random.Random(1)
    judged = [(chance.randrange(700), chance.choice([True, False, None])) for _ in range(3000)]
    scores = position_scores(judged)
    assert list(scores) == bin_names()
    for name, score in scores.items():
        here = [right for position, right in judged if edge(position) == name]
        assert score["support"] == len(here) and score["aligned"] == len(here) - here.count(None)
        assert score["correct"] == here.count(True)
        assert score["accuracy"] == here.count(True) / len(here)
        assert score["aligned_accuracy"] == here.count(True) / (here.count(True) + here.count(False))


def test_edges_and_empty_bins():
    assert list(position_scores((p, True) for p in (31, 32))) == ["0-31", "32-63"]
    assert list(position_scores((p, True) for p in (511, 512, 10_000))) == ["256-511", "512+"]
    assert position_scores([(0, None)])["0-31"]["aligned_accuracy"] is None
    assert position_scores([]) == {}


def test_layers_lie_side_by_side():
    tags, pos = position_scores([(0, True), (1, False), (40, True)]), position_scores([(0, True), (600, False)])
    rows = position_rows({"tag": tags, "pos": pos})
    assert rows == [("0-31", 2, [0.5, 1.0]), ("32-63", 1, [1.0, None]), ("512+", 1, [None, 0.0])]


def test_the_report_has_the_table():
    words = ["uno"] * 40 + ["\n"] + ["dos"] * 30
    gold = Doc(VOCAB, words=words, pos=["NUM"] * 40 + ["SPACE"] + ["NUM"] * 30)
    wrong = Doc(VOCAB, words=words, pos=["NUM"] * 40 + ["SPACE"] + ["NUM"] * 20 + ["NOUN"] * 10)
    entry = score_docs([gold], [wrong])
    counts = {name: (score["correct"], score["support"]) for name, score in entry["positions"]["pos"].items()}
    assert counts == {"0-31": (32, 32), "32-63": (28, 32), "64-127": (0, 6)}  # the line break is no position
    assert sum(n for _, n in counts.values()) == entry["layers"]["pos"]["support"]
    model = {"name": "m", "version": "1", "lang": "es", "pipeline": [], "layers": ["pos"]}
    markdown = render_markdown({"model": model, "plots": [], "notes": [], "corpora": {"c": entry}})
    assert "### Accuracy by position" in markdown and "| 32-63 | 32 | 87.50 |" in markdown
    bare = Doc(VOCAB, words=words)
    assert score_docs([bare], [bare])["positions"] == {}
