"""How good a pipeline is on gold corpora: scores as plain dictionaries, a JSON and a Markdown report, and plots.

The scores are pure functions over spaCy Examples (`make_examples` builds them): one function a table, `score_docs`
for all of them, `evaluate_model` for a pipeline and files. What gold doesn't annotate is left out, never counted
as wrong: a token without a value, a document without a layer; a layer that the whole gold or the pipeline lacks has
no entry. Whitespace tokens count nowhere. Where gold and pipeline tokenize differently, a token is right only if
the same characters are one token in both.

Precision, recall and F1 are 0 where nothing could be right but something was asked or claimed, and None (null in
JSON) where there is neither gold nor prediction; labels of that kind don't enter a macro average.

This module trains nothing, changes no pipeline, and reads no corpus itself (`corpus.load_docs` does).

The JSON report::

    {"title": str,                                    only if given
     "model": {"name", "version", "lang", "pipeline": [str], "layers": [str]},
     "plots": [str],                                  names in the folder plots; empty without plots
     "notes": [str],
     "corpora": {name: {
        "documents": int, "tokens": int,              tokens without whitespace
        "gold_tokens": int,                           documents annotated on the gold tokens
        "unscored": {"corpus_only": [str], "pipeline_only": [str]},
        "layers": {"tokenization": PRF, "tag"|"pos"|"morph"|"lemma": ACCURACY, "features": TABLE, "sentences": PRF,
                   "dependencies": {"without_punctuation": {"uas": PRF, "las": PRF},
                                    "with_punctuation": {"uas": PRF, "las": PRF}, "relations": TABLE}},
        "positions": {"tag"|"pos": {bin: ACCURACY}},  by position in the document, see `positions`
        "entities": {"documents": int, "spans": TABLE, "tags": TABLE and "accuracy"},
        "categories": {component: TABLE and "exclusive", "documents", "left_out", "unknown", "accuracy", "confusion"},
        "conll18": {"documents": int, "metrics": {metric: {"precision", "recall", "f1", "aligned_accuracy"} or null}},
        "spacy": {...},                               the numbers of spaCy's own Scorer under its own names
        "speed": {...}}}}                             see `words_per_second`

    PRF       {"precision", "recall", "f1", "support", "predicted", "correct"}
    ACCURACY  {"accuracy", "aligned_accuracy", "support", "aligned", "correct"}
    TABLE     {"labels": {label: PRF}, "micro": PRF, "macro": AVERAGE, "weighted": AVERAGE}
    AVERAGE   {"precision", "recall", "f1", "support"}

``positions``, ``entities``, ``categories``, ``conll18``, ``spacy`` and ``speed`` are empty where there is nothing to
say.
"""

import importlib.util
import json
import math
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Collection, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy
from spacy.language import Language
from spacy.scorer import Scorer, get_ner_prf
from spacy.tokens import Doc, Token
from spacy.training import Example
from thinc.api import get_current_ops

from beto_spacy.corpora.conllu_writer import (
    LAYERS,
    Scores,
    conll18_raw_scores,
    conll18_scores,
    has_layer,
    head_of,
    is_space,
    layers_of,
    value_of,
)
from beto_spacy.errors import BetoError, CorpusError, FormatError, ProjectError
from beto_spacy.evaluation.positions import accuracy_scores, position_rows, position_scores
from beto_spacy.formats.records import detect_format
from beto_spacy.heads.textcat.component import make_textcat_scorer
from beto_spacy.pipeline.loading import load_pipeline

__all__ = [
    "CategoryGroup",
    "agreement_scores",
    "attribute_scores",
    "category_groups",
    "category_scores",
    "dependency_scores",
    "draw_plots",
    "entity_scores",
    "entity_tag_scores",
    "evaluate_model",
    "evaluate_raw",
    "feature_scores",
    "headline_scores",
    "make_examples",
    "pipeline_layers",
    "render_markdown",
    "render_summary",
    "score_docs",
    "sentence_scores",
    "spacy_scores",
    "tokenization_scores",
    "words_per_second",
]

#: What a component says that it assigns, and the layer that this is.
ASSIGNS = {
    "token.tag": "tag",
    "token.pos": "pos",
    "token.morph": "morph",
    "token.lemma": "lemma",
    "token.is_sent_start": "sentences",
    "doc.sents": "sentences",
    "token.dep": "dependencies",
    "doc.ents": "entities",
    "doc.cats": "categories",
}
#: Relations that spaCy's scorer leaves out of UAS and LAS.
PUNCTUATION = ("p", "punct")
#: The row or column of a confusion matrix for documents without any predicted category.
NO_PREDICTION = "(none)"
#: Above this many labels a plot shows the most frequent ones only.
PLOTTED = 50


class CategoryGroup(NamedTuple):
    """The categories that one component predicts.

    labels: All of them.
    exclusive: One a document (the highest score), or each on its own (a threshold).
    thresholds: By label, if they aren't exclusive; 0.5 for one that isn't there.
    """

    labels: Tuple[str, ...]
    exclusive: bool = True
    thresholds: Mapping[str, float] = {}


# --- counting ---------------------------------------------------------------------------------------------------------


def _ratio(part: float, whole: float) -> Optional[float]:
    return part / whole if whole else None


def _prf(correct: int, predicted: int, gold: int) -> Scores:
    seen = bool(gold or predicted)
    return {
        "precision": (correct / predicted if predicted else 0.0) if seen else None,
        "recall": (correct / gold if gold else 0.0) if seen else None,
        "f1": 2 * correct / (gold + predicted) if seen else None,
        "support": gold,
        "predicted": predicted,
        "correct": correct,
    }


def _table(correct: Counter, predicted: Counter, gold: Counter, labels: Optional[Sequence[str]] = None) -> Scores:
    """A row for every label, and the micro, macro and support-weighted averages."""
    names = sorted(set(gold) | set(predicted)) if labels is None else labels
    rows = {label: _prf(correct[label], predicted[label], gold[label]) for label in names}
    seen = [row for row in rows.values() if row["f1"] is not None]
    support = sum(row["support"] for row in seen)
    macro: Scores = {}
    weighted: Scores = {}
    for key in ("precision", "recall", "f1"):
        macro[key] = _ratio(math.fsum(row[key] for row in seen), len(seen))
        weighted[key] = _ratio(math.fsum(row[key] * row["support"] for row in seen), support)
    micro = _prf(*(sum(row[key] for row in seen) for key in ("correct", "predicted", "support")))
    macro["support"] = weighted["support"] = support
    return {"labels": rows, "micro": micro, "macro": macro, "weighted": weighted}


# --- documents side by side -------------------------------------------------------------------------------------------


def make_examples(gold: Sequence[Doc], predicted: Sequence[Doc]) -> List[Example]:
    """Put the documents side by side, for the functions that score.

    gold: Annotated documents, in the order of the predicted ones and with the same texts.
    predicted: What the pipeline says of them, with the same vocab.
    Raises CorpusError if a document has no counterpart or another text.
    """
    if len(gold) != len(predicted):
        raise CorpusError(
            "B401",
            f"There are {len(gold)} gold documents, but {len(predicted)} predicted ones.",
            "Annotate every gold document, in the same order.",
        )
    for number, (reference, doc) in enumerate(zip(gold, predicted), start=1):
        if reference.text != doc.text:
            raise CorpusError(
                "B402",
                f"The text of predicted document {number} is not the gold text: {doc.text[:40]!r} for "
                f"{reference.text[:40]!r}.",
                "Annotate the gold text itself, or the gold tokens, with a tokenizer that keeps every character.",
            )
    return [Example(doc, reference) for doc, reference in zip(predicted, gold)]


def _links(example: Example) -> Tuple[List[List[int]], List[Optional[int]]]:
    """The alignment, from both sides.

    RETURNS: for each predicted token the gold tokens that it shares characters with, whitespace tokens left out; for
        each gold token the predicted token that has the same characters, None if there is none.
    """
    to_gold = _rows(example.alignment.x2y, example.reference)
    to_predicted = _rows(example.alignment.y2x, example.predicted)
    match = [
        row[0] if len(row) == 1 and len(to_gold[row[0]]) == 1 and not is_space(token) else None
        for token, row in zip(example.reference, to_predicted)
    ]
    return to_gold, match


def _rows(array: Any, doc: Doc) -> List[List[int]]:
    data, rows, start = array.data.tolist(), [], 0
    for length in array.lengths.tolist():
        rows.append([i for i in data[start : start + length] if not is_space(doc[i])])
        start += length
    return rows


# --- tokens, sentences, morphology and syntax -------------------------------------------------------------------------


def tokenization_scores(examples: Iterable[Example]) -> Optional[Scores]:
    """Compare the character spans of the tokens.

    Documents whose gold has no known spaces are left out.
    RETURNS: PRF, as in the module's docstring; None if no document is left.
    """
    correct = predicted = gold = 0
    for example in examples:
        if example.reference.has_unknown_spaces:
            continue
        spans = [
            {(token.idx, token.idx + len(token)) for token in doc if not is_space(token)}
            for doc in (example.reference, example.predicted)
        ]
        gold += len(spans[0])
        predicted += len(spans[1])
        correct += len(spans[0] & spans[1])
    return _prf(correct, predicted, gold) if gold else None


def _judged(examples: Iterable[Example], layer: str) -> Iterable[Tuple[int, Optional[bool]]]:
    """The position in its document of each gold token with a value, and whether the pipeline has the same value there;
    None if it has no such token."""
    for example in examples:
        _, match = _links(example)
        words = [(token, other) for token, other in zip(example.reference, match) if not is_space(token)]
        for position, (token, other) in enumerate(words):
            value = value_of(token, layer)
            if value is not None:
                yield position, None if other is None else value_of(example.predicted[other], layer) == value


def attribute_scores(examples: Iterable[Example], layer: str) -> Optional[Scores]:
    """Compare one value a token.

    layer: ``tag``, ``pos``, ``morph`` (all features of the token at once) or ``lemma``.
    RETURNS: ACCURACY, as in the module's docstring: ``accuracy`` over all gold tokens that have a value (one that the
        pipeline tokenizes otherwise is wrong), ``aligned_accuracy`` over those that are a token in both. None if
        gold has no value.
    """
    return accuracy_scores([right for _, right in _judged(examples, layer)])


def feature_scores(examples: Iterable[Example]) -> Optional[Scores]:
    """Compare the morphological features one by one.

    A feature is right if the token has it with the same values. Tokens with an empty set of features count, so that a
    feature predicted there is wrong; tokens with an unset one don't.
    RETURNS: TABLE, as in the module's docstring, by feature name (``Gender``); None if gold has no morphology.
    """
    correct: Counter = Counter()
    predicted: Counter = Counter()
    gold: Counter = Counter()
    annotated = 0
    for example in examples:
        to_gold, match = _links(example)
        scope = {token.i for token in example.reference if token.has_morph() and not is_space(token)}
        annotated += len(scope)
        for i in scope:
            features = example.reference[i].morph.to_dict()
            gold.update(list(features))
            if match[i] is not None:
                other = example.predicted[match[i]].morph.to_dict()
                correct.update(name for name, value in features.items() if other.get(name) == value)
        for token, row in zip(example.predicted, to_gold):
            if not is_space(token) and scope.intersection(row):
                predicted.update(list(token.morph.to_dict()))
    return _table(correct, predicted, gold) if annotated else None


def _sentence_spans(doc: Doc) -> set:
    spans = set()
    if doc.has_annotation("SENT_START"):
        for sentence in doc.sents:
            words = [token for token in sentence if not is_space(token)]
            if words:
                spans.add((words[0].idx, words[-1].idx + len(words[-1])))
    return spans


def sentence_scores(examples: Iterable[Example]) -> Optional[Scores]:
    """Compare the character spans of the sentences, whitespace at their ends left out.

    RETURNS: PRF, as in the module's docstring; None if no gold document has sentences.
    """
    correct = predicted = gold = 0
    for example in examples:
        if not has_layer(example.reference, "sentences"):
            continue
        spans = _sentence_spans(example.reference), _sentence_spans(example.predicted)
        gold += len(spans[0])
        predicted += len(spans[1])
        correct += len(spans[0] & spans[1])
    return _prf(correct, predicted, gold) if gold else None


def dependency_scores(examples: Iterable[Example]) -> Optional[Scores]:
    """Compare heads (UAS), and heads with relations (LAS).

    Relations are compared in lower case, since spaCy writes ``ROOT`` for ``root``. Without punctuation means, as in
    spaCy's scorer, without the gold tokens that gold calls punctuation and without the predicted tokens that the
    pipeline calls so. Gold tokens without a relation are left out, and the predicted tokens that touch only them.
    RETURNS: ``with_punctuation`` and ``without_punctuation``, each with ``uas`` and ``las`` (PRF), and ``relations``
        (TABLE by relation, labelled attachment, punctuation counted); None if gold has no relations.
    """
    correct: Counter = Counter()
    predicted: Counter = Counter()
    gold: Counter = Counter()
    headed = 0
    headed_words = 0
    for example in examples:
        to_gold, match = _links(example)
        relations = {t.i: value_of(t, "dependencies") for t in example.reference if t.dep and not is_space(t)}
        gold.update(relations.values())
        claims = {
            token.i: value_of(token, "dependencies")
            for token, row in zip(example.predicted, to_gold)
            if token.dep and not is_space(token) and relations.keys() & set(row)
        }
        predicted.update(claims.values())
        for i, relation in relations.items():
            claim = claims.get(match[i])
            if claim is None or match[head_of(example.reference[i]).i] != head_of(example.predicted[match[i]]).i:
                continue
            headed += 1
            headed_words += relation not in PUNCTUATION and claim not in PUNCTUATION
            correct[relation] += claim == relation
    if not gold:
        return None
    relations = _table(correct, predicted, gold)
    every = [sum(counts.values()) for counts in (correct, predicted, gold)]
    words = [n - sum(counts[p] for p in PUNCTUATION) for n, counts in zip(every, (correct, predicted, gold))]
    return {
        "without_punctuation": {"uas": _prf(headed_words, *words[1:]), "las": _prf(*words)},
        "with_punctuation": {"uas": _prf(headed, *every[1:]), "las": _prf(*every)},
        "relations": relations,
    }


# --- entities and categories ------------------------------------------------------------------------------------------


def entity_scores(examples: Iterable[Example]) -> Optional[Scores]:
    """Compare entities: one is right if its first and last character and its type are.

    Gold documents without entity annotation are left out, and predictions that touch only tokens whose annotation is
    missing.
    RETURNS: TABLE, as in the module's docstring, by type; None if no gold document has entity annotation.
    """
    correct: Counter = Counter()
    predicted: Counter = Counter()
    gold: Counter = Counter()
    annotated = False
    for example in examples:
        if not has_layer(example.reference, "entities"):
            continue
        annotated = True
        to_gold, _ = _links(example)
        known = {token.i for token in example.reference if token.ent_iob != 0}
        spans = {(ent.start_char, ent.end_char, ent.label_) for ent in example.reference.ents}
        claims = {
            (ent.start_char, ent.end_char, ent.label_)
            for ent in example.predicted.ents
            if any(known.intersection(to_gold[token.i]) for token in ent)
        }
        gold.update(label for _, _, label in spans)
        predicted.update(label for _, _, label in claims)
        correct.update(label for _, _, label in spans & claims)
    return _table(correct, predicted, gold) if annotated else None


def entity_calibration(examples: Iterable[Example], *, n_bins: int = 10) -> Optional[Scores]:
    """Compare how sure the pipeline is of entities with how often it's right.

    The expected calibration error (Guo et al. 2017) is the mean difference of the two over bins of like confidence,
    weighted by the entities in each. All entities that were found count, also those too unsure to be set.

    RETURNS: ``expected_calibration_error``, ``entities``, and ``bins``: for each that has any, its ``entities``, their
        mean ``confidence`` and their ``precision``; None if no document says how sure it is.
    """
    confidences: List[float] = []
    right: List[bool] = []
    for example in examples:
        if not has_layer(example.reference, "entities"):
            continue
        to_gold, _ = _links(example)
        known = {token.i for token in example.reference if token.ent_iob != 0}
        spans = {(ent.start_char, ent.end_char, ent.label_) for ent in example.reference.ents}
        for group in example.predicted.spans.values():
            for span, confidence in zip(group, group.attrs.get("confidences", ())):
                if any(known.intersection(to_gold[token.i]) for token in span):
                    confidences.append(confidence)
                    right.append((span.start_char, span.end_char, span.label_) in spans)
    if not confidences:
        return None
    which = numpy.minimum((numpy.asarray(confidences) * n_bins).astype(int), n_bins - 1)
    bins = []
    for number in numpy.unique(which):
        inside = which == number
        bins.append(
            {
                "entities": int(inside.sum()),
                "confidence": float(numpy.asarray(confidences)[inside].mean()),
                "precision": float(numpy.asarray(right)[inside].mean()),
            }
        )
    error = sum(b["entities"] * abs(b["confidence"] - b["precision"]) for b in bins) / len(confidences)
    return {"expected_calibration_error": error, "entities": len(confidences), "bins": bins}


def _tag(token: Token) -> str:
    return f"{token.ent_iob_}-{token.ent_type_}" if token.ent_iob_ in ("B", "I") else "O"


def entity_tag_scores(examples: Iterable[Example]) -> Optional[Scores]:
    """Compare the entity tags (``B-PER``, ``I-PER``, ``O``) token by token.

    Tokens whose gold annotation is missing are left out, and the predicted tokens that touch only them.
    RETURNS: TABLE, as in the module's docstring, by tag, and ``accuracy`` over the gold tokens; None if no gold token
        has entity annotation.
    """
    correct: Counter = Counter()
    predicted: Counter = Counter()
    gold: Counter = Counter()
    for example in examples:
        to_gold, match = _links(example)
        known = {token.i for token in example.reference if token.ent_iob != 0 and not is_space(token)}
        for i in known:
            tag = _tag(example.reference[i])
            gold[tag] += 1
            correct[tag] += match[i] is not None and _tag(example.predicted[match[i]]) == tag
        predicted.update(
            _tag(token)
            for token, row in zip(example.predicted, to_gold)
            if not is_space(token) and known.intersection(row)
        )
    if not gold:
        return None
    return {"accuracy": sum(correct.values()) / sum(gold.values()), **_table(correct, predicted, gold)}


def _best(cats: Mapping[str, float], labels: Sequence[str]) -> Optional[str]:
    """The label with the highest score; the first of several. A score that is no number counts below all others."""
    scores = {label: cats[label] for label in labels if label in cats}
    if not scores:
        return None
    return max(scores, key=lambda label: -math.inf if math.isnan(scores[label]) else scores[label])


def category_scores(
    examples: Sequence[Example],
    *,
    labels: Optional[Sequence[str]] = None,
    exclusive: bool = True,
    thresholds: Optional[Mapping[str, float]] = None,
) -> Optional[Scores]:
    """Compare the categories of documents.

    Exclusive: the label with the highest score against the gold label with the highest value; documents whose gold has
    no label above 0 are missing, so left out. Not exclusive: every label on its own, predicted from its threshold, in
    gold above 0; a label that a gold document doesn't name is left out there, and ``accuracy`` counts the documents
    that are right in all the labels that gold names.

    labels: The labels that the pipeline can predict; None: all in gold and predictions. Gold documents with other
        positive labels are counted under ``unknown``, by label.
    exclusive: One label a document, or any number.
    thresholds: From which score on a label is predicted, if they aren't exclusive; by default 0.5.
    RETURNS: TABLE, as in the module's docstring, and ``exclusive``, ``documents``, ``left_out``, ``unknown``,
        ``accuracy``; ``confusion`` if exclusive (``rows`` are gold, ``columns`` predicted, ``counts`` row by row);
        ``thresholds`` by label if not. None if no gold document has any of the labels.
    """
    if labels is None:
        labels = sorted({label for eg in examples for cats in (eg.reference.cats, eg.predicted.cats) for label in cats})
    least = {label: (thresholds or {}).get(label, 0.5) for label in labels}
    correct: Counter = Counter()
    predicted: Counter = Counter()
    gold: Counter = Counter()
    unknown: Counter = Counter()
    cells: Counter = Counter()
    documents = right = 0
    for example in examples:
        cats, scores = example.reference.cats, example.predicted.cats
        unknown.update(label for label, value in cats.items() if value > 0 and label not in labels)
        if exclusive:
            wanted = _best({label: value for label, value in cats.items() if value > 0}, labels)
            if wanted is None:
                continue
            claimed = _best(scores, labels) or NO_PREDICTION
            gold[wanted] += 1
            predicted[claimed] += 1
            correct[wanted] += claimed == wanted
            cells[wanted, claimed] += 1
            right += claimed == wanted
        else:
            named = [label for label in labels if label in cats]
            if not named:
                continue
            positive = {label for label in named if cats[label] > 0}
            claims = {label for label in named if scores.get(label, 0.0) >= least[label]}
            gold.update(positive)
            predicted.update(claims)
            correct.update(positive & claims)
            right += positive == claims
        documents += 1
    if not documents:
        return None
    result: Scores = {
        "exclusive": exclusive,
        "documents": documents,
        "left_out": len(examples) - documents,
        "unknown": dict(sorted(unknown.items())),
        "accuracy": right / documents,
        **_table(correct, predicted, gold, labels),
    }
    if exclusive:
        columns = [*labels, NO_PREDICTION] if predicted[NO_PREDICTION] else list(labels)
        counts = [[cells[row, column] for column in columns] for row in labels]
        result["confusion"] = {"rows": list(labels), "columns": columns, "counts": counts}
    else:
        result["thresholds"] = least
    return result


# --- spaCy's own numbers ----------------------------------------------------------------------------------------------


def _text_value(token: Token, attr: str) -> str:
    return getattr(token, f"{attr}_")


def spacy_scores(
    examples: Sequence[Example],
    *,
    layers: Collection[str],
    groups: Optional[Mapping[str, CategoryGroup]] = None,
) -> Scores:
    """What spaCy's `Scorer` says of the same documents, under its own names, with the settings of its components.

    layers: What to score: ``tokenization`` and names in `LAYERS`.
    groups: The categories by component; with several, the names of their numbers begin with the component's.
    RETURNS: names such as ``tag_acc``, ``dep_las``, ``ents_f``, ``cats_macro_f``; None where spaCy has no number. Where
        they differ from ours, spaCy counts a part of a gold token as that token, ignores features predicted on tokens
        without any, leaves out an entity that touches one token of missing annotation, carries tokens without a
        relation over to the following documents, and averages over categories that never occur.
    """
    scores: Scores = {}
    if "tokenization" in layers:
        scores.update(Scorer.score_tokenization(examples))
    for layer in ("tag", "pos", "lemma"):
        if layer in layers:
            scores.update(Scorer.score_token_attr(examples, layer, getter=_text_value))
    if "morph" in layers:
        keys = {"getter": lambda token, attr: token.morph.key}
        scores.update(Scorer.score_token_attr(examples, "morph", **keys))
        scores.update(Scorer.score_token_attr_per_feat(examples, "morph", **keys))
    if "sentences" in layers:
        found = Scorer.score_spans(
            examples, "sents", has_annotation=lambda doc: doc.has_annotation("SENT_START"), labeled=False
        )
        scores.update(found)
    if "dependencies" in layers:
        scores.update(
            Scorer.score_deps(examples, "dep", getter=lambda token, attr: token.dep_.lower(), ignore_labels=PUNCTUATION)
        )
    if "entities" in layers:
        annotated = [eg for eg in examples if has_layer(eg.reference, "entities")]
        scores.update(get_ner_prf(annotated))
    for name, group in (groups or {}).items():
        named = [eg for eg in examples if set(group.labels) & eg.reference.cats.keys()]
        if group.exclusive:
            named = [eg for eg in named if any(eg.reference.cats.get(label, 0) > 0 for label in group.labels)]
        # spaCy's scorer breaks on a document without predicted categories; those are in our own table.
        named = [eg for eg in named if set(group.labels) & eg.predicted.cats.keys()]
        if named:
            score = make_textcat_scorer(group.exclusive)
            found = score(named, labels=group.labels, thresholds=dict(group.thresholds), threshold=0.5)
            start = f"{name}." if len(groups or {}) > 1 else ""
            scores.update({f"{start}{key}": value for key, value in found.items()})
    return scores


# --- everything of one corpus -----------------------------------------------------------------------------------------


def _groups_in(examples: Sequence[Example], exclusive: bool) -> Dict[str, CategoryGroup]:
    labels = {label for eg in examples for cats in (eg.reference.cats, eg.predicted.cats) for label in cats}
    return {"categories": CategoryGroup(tuple(sorted(labels)), exclusive)} if labels else {}


def score_docs(
    gold: Sequence[Doc],
    predicted: Sequence[Doc],
    *,
    labels: Optional[Mapping[str, CategoryGroup]] = None,
    exclusive: bool = True,
    layers: Optional[Collection[str]] = None,
    tokenization: bool = True,
) -> Scores:
    """Score everything that gold has and the pipeline gives.

    gold: Annotated documents.
    predicted: What the pipeline says of the same texts, in the same order, with the same vocab.
    labels: The categories by component; None: one group of all categories seen, named ``categories``.
    exclusive: Whether that one group is exclusive.
    layers: The layers, of `LAYERS`, that the pipeline gives; None: those that the predicted documents have.
    tokenization: False if the predicted documents were given the gold tokens.
    RETURNS: ``documents``, ``tokens``, ``unscored``, ``layers``, ``positions``, ``entities``, ``categories``,
        ``conll18`` and ``spacy``, as in the module's docstring.
    Raises CorpusError if the documents don't go together.
    """
    examples = make_examples(gold, predicted)
    given = set(layers_of(predicted) if layers is None else layers)
    present = layers_of(gold)
    both = [layer for layer in present if layer in given]
    groups = _groups_in(examples, exclusive) if labels is None else dict(labels)

    scored: Scores = {"tokenization": tokenization_scores(examples) if tokenization else None}
    for layer in ("tag", "pos", "morph", "lemma"):
        scored[layer] = attribute_scores(examples, layer) if layer in both else None
        if layer == "morph":
            scored["features"] = feature_scores(examples) if layer in both else None
    scored["sentences"] = sentence_scores(examples) if "sentences" in both else None
    scored["dependencies"] = dependency_scores(examples) if "dependencies" in both else None
    scored = {layer: score for layer, score in scored.items() if score is not None}

    entities: Scores = {}
    spans, tags = (entity_scores(examples), entity_tag_scores(examples)) if "entities" in both else (None, None)
    if spans is not None and tags is not None:
        documents = sum(has_layer(doc, "entities") for doc in gold)
        entities = {"documents": documents, "spans": spans, "tags": tags}
        calibration = entity_calibration(examples)
        if calibration is not None:
            entities["calibration"] = calibration
    categories: Scores = {}
    for name, group in groups.items() if "categories" in both else ():
        found = category_scores(examples, labels=group.labels, exclusive=group.exclusive, thresholds=group.thresholds)
        if found is not None:
            categories[name] = found
    if "categories" in both and not categories:
        both.remove("categories")
    for_spacy = both + (["tokenization"] if "tokenization" in scored else [])
    return {
        "documents": len(gold),
        "tokens": sum(not is_space(token) for doc in gold for token in doc),
        "unscored": {
            "corpus_only": [layer for layer in present if layer not in both],
            "pipeline_only": [layer for layer in LAYERS if layer in given and layer not in both],
        },
        "layers": scored,
        "positions": {layer: position_scores(_judged(examples, layer)) for layer in ("tag", "pos") if layer in scored},
        "entities": entities,
        "categories": categories,
        "conll18": conll18_scores(examples, layers=given) or {},
        "spacy": spacy_scores(examples, layers=for_spacy, groups={name: groups[name] for name in categories}),
    }


# --- running a pipeline -----------------------------------------------------------------------------------------------


def pipeline_layers(nlp: Language, predicted: Iterable[Doc] = ()) -> List[str]:
    """Name the layers, of `LAYERS`, that a pipeline gives.

    They are those that its components declare (``assigns``), and those that the predicted documents have, since rule
    components don't declare theirs.

    nlp: The pipeline.
    predicted: Documents that it annotated.
    """
    declared = {ASSIGNS.get(a) for name in nlp.pipe_names for a in nlp.get_pipe_meta(name).assigns}
    seen = layers_of(predicted)
    return [layer for layer in LAYERS if layer in declared or layer in seen]


def category_groups(nlp: Language, predicted: Iterable[Doc] = ()) -> Dict[str, CategoryGroup]:
    """The categories that a pipeline predicts, by component.

    A component is exclusive if it says so (``exclusive``), or else unless the name of its factory contains
    ``multilabel``; its ``thresholds`` are its own as well.

    nlp: The pipeline.
    predicted: Documents that it annotated: categories on them that no component declares make an exclusive group
        named ``categories``.
    """
    groups = {}
    for name, pipe in nlp.pipeline:
        meta = nlp.get_pipe_meta(name)
        labels = tuple(getattr(pipe, "labels", ()))
        if "doc.cats" in meta.assigns and labels:
            exclusive = getattr(pipe, "exclusive", "multilabel" not in meta.factory)
            groups[name] = CategoryGroup(labels, exclusive, getattr(pipe, "thresholds", {}))
    known = {label for group in groups.values() for label in group.labels}
    rest = sorted({label for doc in predicted for label in doc.cats} - known)
    if rest:
        groups["categories"] = CategoryGroup(tuple(rest))
    return groups


def _inputs(nlp: Language, gold: Iterable[Doc], gold_tokens: bool) -> List[Union[str, Doc]]:
    """What to annotate: the raw text, or a bare document of the gold tokens."""
    return [
        Doc(nlp.vocab, words=[t.text for t in doc], spaces=[bool(t.whitespace_) for t in doc])
        if gold_tokens or doc.has_unknown_spaces
        else doc.text
        for doc in gold
    ]


def _drop_features(doc: Doc) -> Doc:
    """Free what an encoder left on the document; the scores need annotation only."""
    if Doc.has_extension("trf_data"):
        doc._.trf_data = None
    if doc.tensor is not None:  # spaCy's doc_cleaner makes it None
        doc.tensor = doc.tensor[:0]
    return doc


def words_per_second(
    nlp: Language,
    docs: Sequence[Doc],
    *,
    runs: int = 3,
    batch_size: Optional[int] = None,
    warm_up: bool = True,
    gold_tokens: bool = False,
) -> Scores:
    """Time `nlp.pipe` over the texts of the documents.

    nlp: The pipeline.
    docs: The documents; tokenization is part of the time, unless they have no known spaces.
    runs: How many runs are timed, at least 1.
    batch_size: Documents a batch; None: the pipeline's own.
    warm_up: Annotate up to 64 of the documents before, untimed.
    gold_tokens: Annotate the gold tokens, not the text.
    RETURNS: ``words`` (tokens of the pipeline, without whitespace), ``seconds`` (of each run), ``words_per_second``,
        the median of the runs, ``min``, ``max``, ``device``, ``threads`` (of torch; 1 where torch is not in use, as
        spaCy's own layers run on one) and ``batch_size``.
    """
    size = nlp.batch_size if batch_size is None else batch_size
    if warm_up:
        for _ in nlp.pipe(_inputs(nlp, docs[:64], gold_tokens), batch_size=size):
            pass
    seconds = []
    words = 0
    for _ in range(runs):
        inputs = _inputs(nlp, docs, gold_tokens)
        words = 0
        start = time.perf_counter()
        for doc in nlp.pipe(inputs, batch_size=size):
            words += sum(not is_space(token) for token in doc)
        seconds.append(time.perf_counter() - start)
    rates = [words / s if s else math.inf for s in seconds]
    torch = sys.modules.get("torch")
    ops = get_current_ops()
    device = "cpu"
    if ops.device_type == "gpu":
        device = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else ops.name
    return {
        "words": words,
        "seconds": seconds,
        "words_per_second": statistics.median(rates),
        "min": min(rates),
        "max": max(rates),
        "device": device,
        "threads": torch.get_num_threads() if torch is not None else 1,
        "batch_size": size,
    }


def _name_corpora(corpora: Union[Mapping[str, Any], Sequence[Any]]) -> Dict[str, Path]:
    if isinstance(corpora, Mapping):
        named = [(str(name), Path(path)) for name, path in corpora.items()]
    else:
        paths = [Path(path) for path in ([corpora] if isinstance(corpora, (str, Path)) else corpora)]
        stems = Counter(path.stem for path in paths)
        siblings = Counter((path.parent, path.stem) for path in paths)

        def name(path: Path) -> str:
            if stems[path.stem] == 1:
                return path.stem
            return f"{path.parent.name}/{path.stem if siblings[path.parent, path.stem] == 1 else path.name}"

        named = [(name(path), path) for path in paths]
    if not named:
        raise CorpusError("B405", "There is no corpus to evaluate on.", "Give a file, or a folder of .spacy files.")
    twice = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
    if twice:
        raise CorpusError(
            "B406",
            f"Two corpora would both be named '{twice[0]}' in the report.",
            "Give each corpus once, or name them.",
        )
    return dict(named)


def _nearest(path: Path) -> Path:
    """The path itself, or the first thing above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def _check_output(output: Path) -> None:
    """Fail before the work, not after it, where the report can't be written."""
    folders = {_nearest(output), _nearest(output / "plots")}
    for path in (*folders, output / "report.md", output / "report.json"):
        if path.exists() and path.is_dir() != (path in folders):
            raise ProjectError(
                "B407",
                f"The report needs a {'folder' if path in folders else 'file'} here.",
                "Remove what is there, or give another output folder.",
                path=path,
            )
    for path in folders:
        if not os.access(path, os.W_OK):
            raise ProjectError("B413", "This folder can't be written to.", "Give another output folder.", path=path)


def _check_counts(runs: int, batch_size: Optional[int]) -> None:
    if runs < 0 or (batch_size is not None and batch_size < 1):
        raise ProjectError(
            "B408",
            f"{runs} timed runs with a batch size of {batch_size} can't be done.",
            "Give 0 or more runs, and a batch size of at least 1.",
        )


def _evaluate_corpus(
    nlp: Language,
    name: str,
    path: Path,
    gold: List[Doc],
    *,
    runs: int,
    batch_size: Optional[int],
    warm_up: bool,
    gold_tokens: bool,
) -> Tuple[Scores, List[str]]:
    """The report's entry for one corpus, and the layers that the pipeline turned out to give."""
    try:
        inputs = _inputs(nlp, gold, gold_tokens)
        predicted = [_drop_features(doc) for doc in nlp.pipe(inputs, batch_size=batch_size or nlp.batch_size)]
    except BetoError:
        raise
    except Exception as error:  # any component may fail, with any exception
        raise ProjectError(
            "B409",
            f"The pipeline failed on the corpus '{name}' ({type(error).__name__}: {error}).",
            "Try the pipeline on one text of the corpus; look for texts that are too long or too large a batch.",
            path=path,
        ) from error
    given = pipeline_layers(nlp, predicted)
    as_given = sum(not isinstance(text, str) for text in inputs)
    groups = category_groups(nlp, predicted)
    scores = score_docs(gold, predicted, labels=groups, layers=given, tokenization=not gold_tokens)
    if not (set(scores["layers"]) - {"tokenization"} or scores["entities"] or scores["categories"]):
        present = layers_of(gold)
        raise CorpusError(
            "B410",
            f"No layer of the corpus '{name}' can be scored: "
            f"it has {', '.join(present) or 'no annotation'}{_category_names(gold)}; "
            f"the pipeline gives {', '.join(given) or 'tokens only'}{_category_names(predicted)}.",
            "Evaluate on a corpus with a layer, or with categories, that the pipeline predicts.",
            path=path,
        )
    counts = {"documents": scores["documents"], "tokens": scores["tokens"], "gold_tokens": as_given}
    entry = {**counts, **scores, "speed": {}}
    if runs:
        entry["speed"] = words_per_second(
            nlp, gold, runs=runs, batch_size=batch_size, warm_up=warm_up, gold_tokens=gold_tokens
        )
    return entry, given


def _category_names(docs: Iterable[Doc]) -> str:
    names = sorted({label for doc in docs for label in doc.cats})
    return f" (categories: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''})" if names else ""


def _left_out(name: str, problems: Sequence[Any]) -> str:
    """A note on annotation of a corpus that was left out; `problems` as in `formats.Problem`."""
    listed = "; ".join(str(problem) for problem in problems[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"Of the corpus '{name}' {len(problems)} annotations were left out: {listed}{more}."


def evaluate_raw(model: Union[str, Path], gold: Union[str, Path], *, gpu_id: int = -1) -> Scores:
    """The official CoNLL-18 scores of a pipeline on a treebank's raw text, multiword tokens taken apart.

    model: A folder, or the name of a package.
    gold: The treebank's CoNLL-U file; its text is annotated in documents of ten sentences.
    gpu_id: Number of the GPU; -1 for the CPU.
    RETURNS: precision, recall, f1 and aligned_accuracy by metric, from 0 to 1.
    Raises ProjectError if the pipeline can't be loaded, FormatError or CorpusError if the file isn't CoNLL-U.
    """
    from beto_spacy.corpora.reader import load_docs

    if Path(gold).suffix == ".spacy" or Path(gold).is_dir() or detect_format(gold) != "conllu":
        raise FormatError("B256", "This is no CoNLL-U file.", "Give the file that the treebank came in.", path=gold)
    nlp = load_pipeline(model, gpu=gpu_id)
    texts = [doc.text for doc in load_docs(gold, nlp)]
    return conll18_raw_scores(Path(gold).read_text(encoding="utf-8-sig"), nlp.pipe(texts))


def render_raw(scores: Scores) -> str:
    """A Markdown table of what `evaluate_raw` measured."""
    rows = [(name, *(_percent(s[key]) for key in ("precision", "recall", "f1"))) for name, s in scores.items()]
    return "\n".join(_grid(["Metric", "Precision", "Recall", "F1"], rows)).rstrip()


def evaluate_model(
    model: Union[str, Path, Language],
    corpora: Union[Mapping[str, Union[str, Path]], Sequence[Union[str, Path]]],
    output: Union[str, Path],
    *,
    plots: Optional[bool] = True,
    gpu_id: int = -1,
    batch_size: Optional[int] = None,
    warm_up: bool = True,
    n_words_per_second_runs: int = 3,
    gold_tokens: bool = False,
    title: Optional[str] = None,
) -> Scores:
    """Score a pipeline on gold corpora, each on the layers that it has, and write the report.

    Writes ``report.json``, ``report.md`` and ``plots/*.png``. Everything is built in a temporary folder, and only then
    each file is renamed to its place, ``report.json`` last: a failure before leaves what was there untouched.

    model: A folder, the name of a package, or a loaded pipeline.
    corpora: `.spacy` files, folders of them, or corpora in any format that `corpus.load_docs` reads; named by their
        file names, or by the keys of a mapping. Annotation that fits no tokens is left out, and a note says so.
    output: The folder to write to; it is made if it isn't there.
    plots: True: draw them; False: don't; None: if matplotlib is there.
    gpu_id: Number of the GPU to load the pipeline on; -1 for the CPU. A loaded pipeline stays where it is.
    batch_size: Documents a batch; None: the pipeline's own.
    warm_up: Annotate some documents, untimed, before the timed runs.
    n_words_per_second_runs: Timed runs over each corpus; 0: measure no speed.
    gold_tokens: Annotate the gold tokens instead of the raw text. Documents without known spaces always are.
    title: The heading of the Markdown report.
    RETURNS: the report, as it is in the JSON; its structure is in the module's docstring.
    Raises ProjectError if the pipeline can't be loaded or fails, the output can't be written or matplotlib is missing;
        CorpusError if a corpus can't be read, or has no layer that the pipeline gives.
    """
    from beto_spacy.corpora.reader import load_docs

    output = Path(output)
    _check_output(output)
    _check_counts(n_words_per_second_runs, batch_size)
    paths = _name_corpora(corpora)
    notes = []
    drawn = plots
    if plots is not False and importlib.util.find_spec("matplotlib") is None:
        if plots:
            raise ProjectError(
                "B411",
                "The plots need matplotlib, which isn't installed.",
                "Run pip install 'beto_spacy[plots]', or ask for no plots.",
            )
        drawn = False
        notes.append("No plots were drawn: matplotlib isn't installed (pip install 'beto_spacy[plots]').")
    nlp = model if isinstance(model, Language) else load_pipeline(model, gpu=gpu_id)
    golds = {}
    for name, path in paths.items():
        problems: List[Any] = []
        golds[name] = load_docs(path, nlp, on_problem=problems.append)
        if problems:
            notes.append(_left_out(name, problems))
    entries = {}
    layers: set = set()
    for name, gold in golds.items():
        entries[name], given = _evaluate_corpus(
            nlp,
            name,
            paths[name],
            gold,
            runs=n_words_per_second_runs,
            batch_size=batch_size,
            warm_up=warm_up,
            gold_tokens=gold_tokens,
        )
        layers.update(given)
    report: Scores = {} if title is None else {"title": title}
    report["model"] = {
        **{key: nlp.meta.get(key) for key in ("name", "version", "lang")},
        "pipeline": list(nlp.pipe_names),
        "layers": [layer for layer in LAYERS if layer in layers],
    }
    report.update(plots=[], notes=notes, corpora=entries)
    report = _finite(report)
    _write(report, output, plots=drawn is not False)
    return report


def _finite(value: Any) -> Any:
    """The same value with None for every number that JSON can't hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write(report: Scores, output: Path, *, plots: bool) -> None:
    """Build all files in a temporary folder beside (or in) the output folder, then rename each to its place."""
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=".report-", dir=_nearest(output)))
        if plots:
            report["plots"] = [path.name for path in draw_plots(report, temporary / "plots")]
        (temporary / "report.md").write_text(render_markdown(report), encoding="utf8")
        text = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False)
        (temporary / "report.json").write_text(text + "\n", encoding="utf8")
        files = [*(f"plots/{name}" for name in report["plots"]), "report.md", "report.json"]
        for name in files:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary / name, output / name)
    except OSError as error:
        raise ProjectError(
            "B412",
            f"The report can't be written ({error}).",
            "Check the rights to the folder and the space on the disk.",
            path=output,
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _percent(value: Optional[float]) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _cell(value: Any) -> str:
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _grid(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> List[str]:
    lines = ["| " + " | ".join(_cell(cell) for cell in header) + " |"]
    lines.append("|" + "|".join([" --- ", *(" ---: " for _ in header[1:])]) + "|")
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return [*lines, ""]


def _table_grid(first: str, table: Scores, *, averages: bool = True) -> List[str]:
    """A table's rows with counts; its averages below."""
    header = [first, "Precision", "Recall", "F1", "Support", "Predicted", "Correct"]
    keys = ("precision", "recall", "f1")
    rows = [
        [label, *(_percent(row[key]) for key in keys), row["support"], row["predicted"], row["correct"]]
        for label, row in table["labels"].items()
    ]
    for name in ("micro", "macro", "weighted") if averages else ():
        row = table[name]
        counts = [row["support"], row.get("predicted", ""), row.get("correct", "")]
        rows.append([f"*{name}*", *(_percent(row[key]) for key in keys), *counts])
    return _grid(header, rows)


def headlines(entry: Scores) -> List[Tuple[str, str, Optional[float]]]:
    """The numbers that sum up a corpus: name, measure, value."""
    layers, found = entry["layers"], []
    if "tokenization" in layers:
        found.append(("Tokenization", "F1", layers["tokenization"]["f1"]))
    for layer, name in (("tag", "Tag"), ("pos", "Part of speech"), ("morph", "Morphology"), ("lemma", "Lemma")):
        if layer in layers:
            found.append((name, "accuracy", layers[layer]["accuracy"]))
    if "features" in layers:
        found.append(("Morphological features", "micro F1", layers["features"]["micro"]["f1"]))
    if "sentences" in layers:
        found.append(("Sentences", "F1", layers["sentences"]["f1"]))
    if "dependencies" in layers:
        for measure in ("uas", "las"):
            for key in ("without_punctuation", "with_punctuation"):
                score = layers["dependencies"][key][measure]["f1"]
                found.append((f"{measure.upper()} {key.replace('_', ' ')}", "F1", score))
    if entry["entities"]:
        found.append(("Entities", "micro F1", entry["entities"]["spans"]["micro"]["f1"]))
        if "calibration" in entry["entities"]:
            error = entry["entities"]["calibration"]["expected_calibration_error"]
            found.append(("Confidence of entities", "calibration error", error))
    for name, group in entry["categories"].items():
        of_many = f" ({name})" if len(entry["categories"]) > 1 else ""
        found.append((f"Categories{of_many}", "macro F1", group["macro"]["f1"]))
    return found


def headline_scores(nlp: Language, gold: Sequence[Doc], predicted: Sequence[Doc]) -> Dict[str, float]:
    """The scores that sum up what a pipeline predicted, in per cent, by layer and measure; no calibration error.

    gold, predicted: As in `score_docs`.
    """
    entry = score_docs(gold, predicted, labels=category_groups(nlp), layers=pipeline_layers(nlp), tokenization=False)
    return {
        f"{layer} ({measure})": 100.0 * value
        for layer, measure, value in headlines(entry)
        if value is not None and math.isfinite(value) and measure != "calibration error"
    }


def agreement_scores(nlp: Language, before: Sequence[Doc], after: Sequence[Doc]) -> Dict[str, float]:
    """How far what a pipeline predicted agrees with what another did, as `headline_scores` of that.

    Categories that don't exclude one another have probabilities in both; those that apply are taken for gold.

    nlp: A pipeline with the labels and thresholds of both.
    """
    several = [group for group in category_groups(nlp).values() if not group.exclusive]
    if several:
        before = [doc.copy() for doc in before]
    for doc in before:
        for group in several:
            found = {label: doc.cats.get(label, 0.0) for label in group.labels}
            doc.cats.update({label: float(p >= group.thresholds.get(label, 0.5)) for label, p in found.items()})
    return headline_scores(nlp, before, after)


def render_markdown(report: Scores) -> str:
    """Lay out a report as Markdown tables; all scores in per cent with two decimals.

    Nothing but the report goes in, so the same report gives the same text: no date, and of the model what is given.

    report: As `evaluate_model` returns it.
    """
    model = report.get("model", {})
    lines = [f"# {report.get('title') or 'Evaluation'}", ""]
    facts = [(key, model.get(key)) for key in ("name", "version", "lang")]
    facts += [(key, ", ".join(model.get(key) or ())) for key in ("pipeline", "layers")]
    given = [f"- {key}: {value}" for key, value in facts if value]
    lines += [*given, ""] if given else []
    lines += ["Scores are in per cent. What gold doesn't annotate is left out, never counted as wrong.", ""]
    lines += [text for note in report.get("notes", ()) for text in (f"Note: {note}", "")]
    names = report["corpora"]
    if len(names) > 1:
        rows = [(name, *row) for name, entry in names.items() for row in headlines(entry)]
        lines += ["## Summary", ""]
        lines += _grid(["Corpus", "Layer", "Measure", "Score"], [(c, n, m, _percent(v)) for c, n, m, v in rows])
    slugs = _slugs(names)
    for name, entry in names.items():
        lines += [f"## Corpus: {name}", "", *_render_corpus(entry)]
        for plot in report.get("plots", ()):
            if plot.split("--")[0] == slugs[name]:
                lines += [f"![{Path(plot).stem}](plots/{plot})", ""]
    return "\n".join(lines).rstrip() + "\n"


def render_summary(report: Scores) -> str:
    """The scores that sum up each corpus, as aligned plain text for a terminal; in per cent.

    report: As `evaluate_model` returns it.
    """
    lines = []
    for name, entry in report["corpora"].items():
        rows = [(f"{layer} ({measure})", _percent(value)) for layer, measure, value in headlines(entry)]
        rate = entry["speed"].get("words_per_second")
        if rate is not None:
            rows.append(("Words a second (median)", f"{rate:.0f}"))
        width = max((len(label) for label, _ in rows), default=0)
        lines += [f"{name}: {entry['documents']} documents, {entry['tokens']} tokens"]
        lines += [f"  {label.ljust(width)}  {value:>6}" for label, value in rows]
    return "\n".join([*lines, *report.get("notes", ())])


def _render_corpus(entry: Scores) -> List[str]:
    layers = entry["layers"]
    lines = [f"{entry['documents']} documents, {entry['tokens']} tokens.", ""]
    if entry.get("gold_tokens"):
        lines += [f"Annotated on the gold tokens: {entry['gold_tokens']} documents.", ""]
    reasons = {"corpus_only": "In the corpus, not scored", "pipeline_only": "Given by the pipeline, not in the corpus"}
    for key, text in reasons.items():
        if entry["unscored"][key]:
            lines += [f"{text}: {', '.join(entry['unscored'][key])}.", ""]
    lines += _grid(["Layer", "Measure", "Score"], [(n, measure, _percent(v)) for n, measure, v in headlines(entry)])
    accuracies = [layer for layer in ("tag", "pos", "morph", "lemma") if layer in layers]
    if accuracies:
        lines += ["### Token by token", ""]
        lines += ["Accuracy is over all gold tokens with a value; aligned, over those that are a token in both.", ""]
        lines += _grid(
            ["Layer", "Accuracy", "Aligned accuracy", "Support", "Aligned", "Correct"],
            [
                (n, _percent(s["accuracy"]), _percent(s["aligned_accuracy"]), s["support"], s["aligned"], s["correct"])
                for n, s in ((layer, layers[layer]) for layer in accuracies)
            ],
        )
    if entry["positions"]:
        lines += ["### Accuracy by position", "", "Positions are tokens from the start of the document.", ""]
        header = ["Position", "Tokens", *(f"{layer}, accuracy" for layer in entry["positions"])]
        rows = [(name, n, *map(_percent, values)) for name, n, values in position_rows(entry["positions"])]
        lines += _grid(header, rows)
    spans = {name: layers[name] for name in ("tokenization", "sentences") if name in layers}
    if spans:
        lines += ["### Tokens and sentences", "", *_table_grid("Layer", {"labels": spans}, averages=False)]
    if "features" in layers:
        lines += ["### Morphological features", "", *_table_grid("Feature", layers["features"])]
    if "dependencies" in layers:
        parts = layers["dependencies"]
        attachments = {
            f"{measure.upper()} {key.replace('_', ' ')}": parts[key][measure]
            for key in ("without_punctuation", "with_punctuation")
            for measure in ("uas", "las")
        }
        lines += ["### Attachment", "", "Without punctuation is spaCy's way of counting.", ""]
        lines += _table_grid("Score", {"labels": attachments}, averages=False)
        lines += ["### Relations", "", "Labelled attachment, punctuation counted.", ""]
        lines += _table_grid("Relation", parts["relations"])
    if entry["entities"]:
        entities = entry["entities"]
        lines += ["### Entities", "", f"Exact spans, in {entities['documents']} documents.", ""]
        lines += _table_grid("Type", entities["spans"])
        lines += ["### Entity tags", "", f"Token by token; accuracy {_percent(entities['tags']['accuracy'])}.", ""]
        lines += _table_grid("Tag", entities["tags"])
        if "calibration" in entities:
            error = _percent(entities["calibration"]["expected_calibration_error"])
            lines += ["### Confidence of entities", "", f"Expected calibration error {error}.", ""]
            rows = [
                (b["entities"], _percent(b["confidence"]), _percent(b["precision"]))
                for b in entities["calibration"]["bins"]
            ]
            lines += _grid(["Entities", "Mean confidence", "Precision"], rows)
    for name, group in entry["categories"].items():
        lines += [f"### Categories: {name}", "", *_render_categories(group)]
    if entry["conll18"]:
        lines += ["### CoNLL 2018", ""]
        count = entry["conll18"]["documents"]
        lines += [f"The official evaluator, on {count} documents. Merged tokens are taken as single words.", ""]
        keys = ("precision", "recall", "f1", "aligned_accuracy")
        rows = [(m, *(_percent((s or {}).get(key)) for key in keys)) for m, s in entry["conll18"]["metrics"].items()]
        lines += _grid(["Metric", "Precision", "Recall", "F1", "Aligned accuracy"], rows)
    numbers = {key: value for key, value in entry["spacy"].items() if isinstance(value, (int, float))}
    if numbers:
        lines += ["### spaCy's Scorer", ""]
        lines += [
            "spaCy's own way of counting, which may leave out tokens that gold and pipeline split differently.",
            "",
        ]
        lines += [*_grid(["Score", "Value"], [(k, _percent(v)) for k, v in numbers.items()])]
    if entry.get("speed"):
        lines += ["### Speed", "", *_render_speed(entry["speed"])]
    return lines


def _render_categories(group: Scores) -> List[str]:
    kind = "the highest score"
    if not group["exclusive"]:
        different = len(set(group["thresholds"].values())) > 1
        cuts = ", ".join(f"{label} {t:.3g}" for label, t in group["thresholds"].items())
        common = f"of {min(group['thresholds'].values())}"
        kind = f"every label from a score {f'of its own ({cuts})' if different else common} on"
    lines = [f"By {kind}; {group['documents']} documents, {group['left_out']} without gold left out."]
    lines += [f"Accuracy {_percent(group['accuracy'])}.", ""]
    if group["unknown"]:
        counts = ", ".join(f"{label} ({n})" for label, n in group["unknown"].items())
        lines += [f"Gold labels that aren't among this component's, not scored (documents): {counts}.", ""]
    lines += _table_grid("Category", group)
    if group["exclusive"]:
        confusion = group["confusion"]
        lines += ["Confusion matrix: rows are gold, columns predicted.", ""]
        rows = [(label, *counts) for label, counts in zip(confusion["rows"], confusion["counts"])]
        lines += _grid(["Gold", *confusion["columns"]], rows)
    return lines


def _render_speed(speed: Scores) -> List[str]:
    rates = [speed["words_per_second"], speed["min"], speed["max"]]
    cells = ["-" if rate is None else f"{rate:.0f}" for rate in rates]
    header = ["Words a second (median)", "Least", "Most", "Words", "Runs", "Device", "Threads", "Batch size"]
    facts = [speed[key] for key in ("device", "threads", "batch_size")]
    return _grid(header, [[*cells, speed["words"], len(speed["seconds"]), *facts]])


# --- plots ------------------------------------------------------------------------------------------------------------


def _slugs(names: Iterable[str]) -> Dict[str, str]:
    """File names for names, without two that are the same."""
    slugs: Dict[str, str] = {}
    for name in names:
        base = re.sub(r"-{2,}", "-", re.sub(r"[^\w.]+", "-", name)).strip("-.") or "corpus"
        slug, number = base, 1
        while slug.lower() in {other.lower() for other in slugs.values()}:
            number += 1
            slug = f"{base}-{number}"
        slugs[name] = slug
    return slugs


def draw_plots(report: Scores, folder: Union[str, Path]) -> List[Path]:
    """Draw the plots of a report, one PNG each, without any display.

    For each corpus: ``<corpus>--layers.png`` (an overview), ``<corpus>--relations.png`` (LAS by relation),
    ``<corpus>--entities.png`` (scores by type) and ``<corpus>--confusion-<component>.png``, where it has them. Beyond
    50 labels, the most frequent are shown.

    report: As `evaluate_model` returns it.
    folder: Where to write; made if it isn't there.
    RETURNS: the files, in the order drawn.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files: List[Path] = []
    slugs = _slugs(report["corpora"])
    for name, entry in report["corpora"].items():
        start = slugs[name]
        scored = [(f"{layer} ({measure})", v) for layer, measure, v in headlines(entry) if v is not None]
        if scored:
            labels, values = zip(*scored)
            files.append(folder / f"{start}--layers.png")
            _draw_bars(files[-1], f"{name}: layers", labels, {"Score": values})
        if "dependencies" in entry["layers"]:
            rows = _frequent(entry["layers"]["dependencies"]["relations"])
            files.append(folder / f"{start}--relations.png")
            _draw_bars(files[-1], f"{name}: LAS by relation", rows, {"F1": [row["f1"] for row in rows.values()]})
        rows = _frequent(entry["entities"]["spans"]) if entry["entities"] else {}
        if rows:
            files.append(folder / f"{start}--entities.png")
            series = {key.capitalize(): [row[key] for row in rows.values()] for key in ("precision", "recall", "f1")}
            _draw_bars(files[-1], f"{name}: entities by type", rows, series)
        groups = {group: scores for group, scores in entry["categories"].items() if scores["exclusive"]}
        for group, slug in _slugs(groups).items():
            files.append(folder / f"{start}--confusion-{slug}.png")
            _draw_confusion(files[-1], f"{name}: {group}", groups[group])
    return files


def _frequent(table: Scores) -> Dict[str, Scores]:
    """The rows of a table that have a score, the most frequent first, labelled with their support."""
    rows = [(label, row) for label, row in table["labels"].items() if row["f1"] is not None]
    rows.sort(key=lambda item: (-item[1]["support"], item[0]))
    return {f"{label} ({row['support']})": row for label, row in rows[:PLOTTED]}


def _save_figure(path: Path, figure: Any) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})


def _draw_bars(path: Path, title: str, labels: Iterable[str], series: Dict[str, Sequence[float]]) -> None:
    from matplotlib.figure import Figure

    labels = list(labels)
    figure = Figure(figsize=(8, 1.5 + 0.22 * len(labels) * max(len(series), 1.5)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        places = [i - 0.4 + height * (number + 0.5) for i in range(len(labels))]
        bars = axes.barh(places, [100 * value for value in values], height, label=name)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axes.set_yticks(range(len(labels)), labels=labels, parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(0, 108)
    axes.set_xlabel("per cent")
    axes.set_title(title, parse_math=False)
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=len(series))
    _save_figure(path, figure)


def _draw_confusion(path: Path, title: str, group: Scores) -> None:
    from matplotlib.figure import Figure

    confusion, table = group["confusion"], group["labels"]
    chosen = sorted(table, key=lambda label: -table[label]["support"])[:PLOTTED]
    rows = [i for i, label in enumerate(confusion["rows"]) if label in chosen]
    columns = [i for i, label in enumerate(confusion["columns"]) if label in chosen or label == NO_PREDICTION]
    counts = [[confusion["counts"][i][j] for j in columns] for i in rows]
    shares = [[count / sum(confusion["counts"][i]) if count else 0.0 for count in row] for i, row in zip(rows, counts)]
    figure = Figure(figsize=(3 + 0.45 * len(columns), 2.5 + 0.4 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    figure.colorbar(image, label="share of the gold label")
    if len(columns) <= 25:
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                colour = "white" if shares[i][j] > 0.5 else "black"
                axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color=colour)
    names = [confusion["columns"][j] for j in columns]
    axes.set_xticks(range(len(columns)), labels=names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(rows)), labels=[confusion["rows"][i] for i in rows], parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("gold")
    axes.set_title(title, parse_math=False)
    _save_figure(path, figure)
