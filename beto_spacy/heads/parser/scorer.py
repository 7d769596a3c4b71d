"""Scores of spaCy's own heads over corpora of which only a part has their annotation.

A development set of several corpora has documents without heads and relations. spaCy's scorer of dependencies carries
their tokens over to the documents that follow, and leaves the predictions of those out, though not their gold: its
scores sink, and with them the choice of the best model of a training. (The scorer of categories is in `textcat.py`; for
tags, morphology, lemmas, sentences and entities spaCy's are right.)
"""

from typing import Any, Callable, Dict, Iterable

from spacy.pipeline.dep_parser import parser_score
from spacy.scorer import Scorer
from spacy.training import Example


def make_parser_scorer() -> Callable[..., Dict[str, Any]]:
    """Build ``beto_spacy.parser_scorer.v1``: spaCy's scores of sentences and dependencies.

    RETURNS: A function of examples. Dependencies are scored on the documents that have them, sentences on all that have
        sentence boundaries; what no document has is None.
    """
    return _score


def _score(examples: Iterable[Example], **settings: Any) -> Dict[str, Any]:
    examples = list(examples)
    parsed = [example for example in examples if example.reference.has_annotation("DEP")]
    sentences = Scorer.score_spans(examples, "sents", has_annotation=lambda doc: doc.has_annotation("SENT_START"))
    del sentences["sents_per_type"]
    return {**parser_score(parsed, **settings), **sentences}
