"""Every score against a hand-worked example, a brute-force count over character offsets, and spaCy's own scorer."""

import io
import json
import math
import random
import re
import sys
import types

import pytest
import spacy
from spacy.language import Language
from spacy.scorer import Scorer, get_ner_prf
from spacy.tokens import Doc, DocBin, Span
from spacy.vocab import Vocab
from udtools.udeval import evaluate, load_conllu

from beto_spacy.corpora.conllu_writer import conll18_scores, doc_to_conllu, layers_of
from beto_spacy.corpora.reader import convert
from beto_spacy.errors import CorpusError, FormatError, ProjectError
from beto_spacy.evaluation import run as module
from beto_spacy.evaluation.run import (
    CategoryGroup,
    agreement_scores,
    attribute_scores,
    category_scores,
    dependency_scores,
    draw_plots,
    entity_scores,
    entity_tag_scores,
    evaluate_model,
    feature_scores,
    make_examples,
    pipeline_layers,
    render_markdown,
    render_summary,
    score_docs,
    sentence_scores,
    tokenization_scores,
    words_per_second,
)

VOCAB = Vocab()
TAGS = ("NC", "VM", "DA", "SP")
POS = ("NOUN", "VERB", "DET", "ADP")
MORPHS = ("", "Gender=Fem|Number=Sing", "Gender=Masc", "Number=Plur|PronType=Int,Rel")
RELATIONS = ("nsubj", "obj", "det", "punct")
TYPES = ("PER", "LOC", "ORG")


def build(text, *, spaces=None, **layers):
    """A document of the words in `text`, separated by spaces."""
    words = text.split(" ")
    return Doc(VOCAB, words=words, spaces=[True] * (len(words) - 1) + [False] if spaces is None else spaces, **layers)


def prf(row):
    return row["precision"], row["recall"], row["f1"]


# --- random gold, and what a bad pipeline makes of it -----------------------------------------------------------------


def random_tree(rng, size):
    """Heads (offsets in the sentence) of a random tree; the root is its own head."""
    order = rng.sample(range(size), size)
    heads = [0] * size
    heads[order[0]] = order[0]
    for place, node in enumerate(order[1:], start=1):
        heads[node] = rng.choice(order[:place])
    return heads


def random_ents(rng, size):
    """IOB tags with adjacent entities, some of the same type."""
    tags = []
    while len(tags) < size:
        if rng.random() < 0.5:
            tags.append("O")
        else:
            kind, length = rng.choice(TYPES), rng.randint(1, 3)
            tags += [f"B-{kind}"] + [f"I-{kind}"] * (length - 1)
    return tags[:size]


def random_columns(rng, size, missing):
    def column(values):
        return ["" if rng.random() < missing else rng.choice(values) for _ in range(size)]

    words = ["".join(rng.choice("abcdeñ") for _ in range(rng.randint(1, 4))) for _ in range(size)]
    heads = []
    while len(heads) < size:
        length = min(rng.randint(1, 6), size - len(heads))
        heads += [len(heads) + head for head in random_tree(rng, length)]
    roots = [head == i for i, head in enumerate(heads)]
    deps = ["ROOT" if root else rng.choice(RELATIONS) for root in roots]
    return {
        "words": words,
        "spaces": [rng.random() < 0.6 for _ in range(size)],
        "tags": column(TAGS),
        "pos": column(POS),
        "lemmas": column(words),
        "morphs": [rng.choice(MORPHS) for _ in range(size)],
        "heads": heads,
        "deps": ["" if rng.random() < missing else dep for dep in deps],
        "ents": random_ents(rng, size),
    }


def corrupt(rng, columns, *, retokenize):
    """The same text with other values, another tree, and, on demand, some tokens cut in two or glued together."""
    size = len(columns["words"])
    new = {name: list(values) for name, values in columns.items()}
    for name, values in (("tags", TAGS), ("pos", POS), ("lemmas", ("abc", "d")), ("morphs", MORPHS)):
        new[name] = [rng.choice(values) if not v or rng.random() < 0.3 else v for v in new[name]]
    if rng.random() < 0.5:
        new["ents"] = random_ents(rng, size)
    else:  # a shifted boundary here, another type there
        new["ents"] = [
            "O" if rng.random() < 0.2 else tag.replace("PER", "LOC") if rng.random() < 0.2 else tag
            for tag in new["ents"]
        ]
    for i in range(size):
        tag = new["ents"][i]
        if tag.startswith("I-") and (i == 0 or new["ents"][i - 1][2:] != tag[2:]):
            new["ents"][i] = "B-" + tag[2:]
    pieces = []
    for i, word in enumerate(new["words"]):
        row = {name: values[i] for name, values in new.items()}
        row["old"] = i
        if retokenize and len(word) > 1 and rng.random() < 0.15:
            second = {**row, "words": word[1:], "old": None}
            second["ents"] = second["ents"].replace("B-", "I-")
            pieces += [{**row, "words": word[0], "spaces": False, "old": None}, second]
        elif retokenize and pieces and not pieces[-1]["spaces"] and rng.random() < 0.15:
            pieces[-1].update(words=pieces[-1]["words"] + word, spaces=row["spaces"], old=None)
        else:
            pieces.append(row)
    # A tree of its own, in sentences of its own, that keeps the gold head where that leaves a tree.
    place = {piece["old"]: i for i, piece in enumerate(pieces) if piece["old"] is not None}
    heads, start = [], 0
    while start < len(pieces):
        length = min(rng.randint(1, 8), len(pieces) - start)
        heads += [start + head for head in random_tree(rng, length)]
        for i in range(start, start + length):
            old = pieces[i]["old"]
            wanted = None if old is None else place.get(columns["heads"][old])
            if wanted is None or not start <= wanted < start + length or heads[i] == i:
                continue
            above = wanted
            while above != i and heads[above] != above:
                above = heads[above]
            if above != i:
                heads[i] = wanted
        start += length
    deps = [
        "ROOT"
        if heads[i] == i
        else rng.choice(RELATIONS)
        if p["deps"] in ("", "ROOT") or rng.random() < 0.2
        else p["deps"]
        for i, p in enumerate(pieces)
    ]
    rows = {name: [piece[name] for piece in pieces] for name in columns if name not in ("heads", "deps")}
    return {**rows, "heads": heads, "deps": deps}


def random_pair(seed, *, documents=12, retokenize=True, missing=0.1):
    rng = random.Random(seed)
    gold, predicted = [], []
    for _ in range(documents):
        columns = random_columns(rng, rng.randint(1, 25), missing)
        gold.append(Doc(VOCAB, **columns))
        predicted.append(Doc(VOCAB, **corrupt(rng, columns, retokenize=retokenize)))
        if missing and len(gold[-1]) > 1:
            inside = [token for token in gold[-1] if not token.ent_iob_ == "I" and token.nbor(-1 if token.i else 0)]
            hidden = [t for t in inside if t.ent_iob_ == "O" and rng.random() < 0.3]
            spans = [Span(gold[-1], t.i, t.i + 1) for t in hidden]
            gold[-1].set_ents(list(gold[-1].ents), missing=spans, default="outside")
    return gold, predicted


# --- brute force, over character offsets ------------------------------------------------------------------------------


def span(token):
    return token.idx, token.idx + len(token.text)


def brute_prf(correct, predicted, gold):
    if not predicted and not gold:
        return None, None, None
    p = correct / predicted if predicted else 0.0
    r = correct / gold if gold else 0.0
    return p, r, 2 * p * r / (p + r) if p + r else 0.0


def overlaps(a, b):
    return a[0] < b[1] and b[0] < a[1]


def in_scope(doc, annotated):
    """The tokens of a predicted document that touch an annotated gold token."""
    return [token for token in doc if any(overlaps(span(token), span(other)) for other in annotated)]


def brute_items(gold, predicted, items):
    """Count gold, predicted and shared (position, label) pairs, as lists, not as sets of labels."""
    total = []
    for reference, doc in zip(gold, predicted):
        wanted, claimed = items(reference, doc)
        total.append((wanted, claimed, [item for item in wanted if item in claimed]))
    return total


def assert_table(table, total):
    labels = sorted({item[-1] for wanted, claimed, _ in total for item in [*wanted, *claimed]})
    assert list(table["labels"]) == labels
    counts = {}
    for label in labels:
        wanted, claimed, shared = (sum(item[-1] == label for row in total for item in row[k]) for k in range(3))
        counts[label] = (shared, claimed, wanted)
        row = table["labels"][label]
        assert (row["correct"], row["predicted"], row["support"]) == counts[label]
        assert prf(row) == pytest.approx(brute_prf(*counts[label]))
    sums = [sum(c[k] for c in counts.values()) for k in range(3)]
    assert prf(table["micro"]) == pytest.approx(brute_prf(*sums))
    for k, name in enumerate(("precision", "recall", "f1")):
        scores = {label: brute_prf(*c)[k] for label, c in counts.items()}
        assert table["macro"][name] == pytest.approx(sum(scores.values()) / len(scores))
        weighted = sum(scores[label] * counts[label][2] for label in labels) / sums[2]
        assert table["weighted"][name] == pytest.approx(weighted)
    assert table["micro"]["support"] == table["macro"]["support"] == table["weighted"]["support"] == sums[2]


SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
def test_tokens_and_attributes_by_brute_force(seed):
    gold, predicted = random_pair(seed)
    examples = make_examples(gold, predicted)
    wanted = [span(t) + (n,) for n, doc in enumerate(gold) for t in doc]
    claimed = [span(t) + (n,) for n, doc in enumerate(predicted) for t in doc]
    shared = sum(item in claimed for item in wanted)
    assert 0 < shared < len(wanted)
    assert prf(tokenization_scores(examples)) == pytest.approx(brute_prf(shared, len(claimed), len(wanted)))
    for layer in ("tag", "pos", "lemma", "morph"):

        def value(token, layer=layer):
            return str(token.morph) if layer == "morph" else getattr(token, layer + "_")

        support = aligned = correct = 0
        for reference, doc in zip(gold, predicted):
            found = {span(token): value(token) for token in doc}
            for token in reference:
                if layer == "morph" or value(token):
                    support += 1
                    aligned += span(token) in found
                    correct += found.get(span(token)) == value(token)
        scores = attribute_scores(examples, layer)
        assert 0 < correct < aligned < support
        assert (scores["correct"], scores["aligned"], scores["support"]) == (correct, aligned, support)
        assert scores["accuracy"] == pytest.approx(correct / support)
        assert scores["aligned_accuracy"] == pytest.approx(correct / aligned)


@pytest.mark.parametrize("seed", SEEDS)
def test_features_by_brute_force(seed):
    gold, predicted = random_pair(seed)

    def items(reference, doc):
        def features(tokens):
            return [
                (span(t), *feature.split("=")[::-1]) for t in tokens for feature in str(t.morph).split("|") if feature
            ]

        return features(reference), features(doc)

    assert_table(feature_scores(make_examples(gold, predicted)), brute_items(gold, predicted, items))


@pytest.mark.parametrize("seed", SEEDS)
def test_sentences_by_brute_force(seed):
    gold, predicted = random_pair(seed)

    def spans(doc):
        found = []
        for token in doc:
            if token.is_sent_start or token.i == 0:
                found.append(span(token))
            else:
                found[-1] = (found[-1][0], span(token)[1])
        return found

    wanted, claimed = ([(n, s) for n, doc in enumerate(docs) for s in spans(doc)] for docs in (gold, predicted))
    shared = sum(item in claimed for item in wanted)
    assert 0 < shared < len(wanted)
    scores = sentence_scores(make_examples(gold, predicted))
    assert prf(scores) == pytest.approx(brute_prf(shared, len(claimed), len(wanted)))


@pytest.mark.parametrize("seed", SEEDS)
def test_dependencies_by_brute_force(seed):
    gold, predicted = random_pair(seed)

    def arcs(tokens):
        return [(span(t), span(t.head), t.dep_.lower()) for t in tokens if t.dep_]

    def items(reference, doc):
        return arcs(reference), arcs(in_scope(doc, [token for token in reference if token.dep_]))

    total = brute_items(gold, predicted, items)
    scores = dependency_scores(make_examples(gold, predicted))
    assert_table(scores["relations"], total)
    for key, ignored in (("with_punctuation", ()), ("without_punctuation", ("punct",))):
        for measure, width in (("uas", 2), ("las", 3)):
            shared = sizes = 0
            sizes = [0, 0]
            for wanted, claimed, _ in total:
                left = [arc[:width] for arc in wanted if arc[2] not in ignored]
                right = [arc[:width] for arc in claimed if arc[2] not in ignored]
                shared += sum(arc in right for arc in left)
                sizes = [sizes[0] + len(left), sizes[1] + len(right)]
            assert 0 < shared < sizes[0]
            assert prf(scores[key][measure]) == pytest.approx(brute_prf(shared, sizes[1], sizes[0]))
            assert scores[key][measure]["support"] == sizes[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_entities_by_brute_force(seed):
    gold, predicted = random_pair(seed)
    examples = make_examples(gold, predicted)

    def spans(doc, known=None):
        """Spans read off the tags of the tokens, not from doc.ents."""
        found = []
        for token in doc:
            if token.ent_iob_ == "B":
                found.append([*span(token), token.ent_type_])
            elif token.ent_iob_ == "I":
                found[-1][1] = span(token)[1]
        return [tuple(f) for f in found if known is None or any(overlaps(f, span(other)) for other in known)]

    def known_tokens(reference):
        return [token for token in reference if token.ent_iob_ != ""]

    def items(reference, doc):
        return spans(reference), spans(doc, known_tokens(reference))

    total = brute_items(gold, predicted, items)
    assert any(shared for *_, shared in total)
    assert_table(entity_scores(examples), total)

    def tags(reference, doc):
        def named(tokens):
            return [(span(t), t.ent_iob_ + ("-" + t.ent_type_ if t.ent_type_ else "")) for t in tokens]

        return named(known_tokens(reference)), named(in_scope(doc, known_tokens(reference)))

    total = brute_items(gold, predicted, tags)
    scores = entity_tag_scores(examples)
    assert_table(scores, total)
    assert scores["accuracy"] == pytest.approx(sum(len(row[2]) for row in total) / sum(len(row[0]) for row in total))


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_categories_by_brute_force(seed, exclusive):
    rng = random.Random(seed)
    labels = ["a", "b", "c", "d"]
    gold, predicted, wanted, claimed = [], [], [], []
    for n in range(40):
        reference, doc = build("uno dos"), build("uno dos")
        doc.cats = {label: rng.random() for label in labels}
        positive = {rng.choice(labels)} if exclusive else {label for label in labels if rng.random() < 0.4}
        if exclusive and rng.random() < 0.2:
            positive = set()
        named = labels if exclusive else [label for label in labels if rng.random() < 0.8]
        reference.cats = {label: float(label in positive) for label in named}
        gold.append(reference)
        predicted.append(doc)
        if exclusive and positive:
            wanted.append([(n, *positive)])
            claimed.append([(n, sorted(doc.cats, key=doc.cats.get)[-1])])
        elif not exclusive and named:
            wanted.append([(n, label) for label in named if label in positive])
            claimed.append([(n, label) for label in named if doc.cats[label] >= 0.5])
    scores = category_scores(make_examples(gold, predicted), exclusive=exclusive)
    total = [(w, c, [item for item in w if item in c]) for w, c in zip(wanted, claimed)]
    assert_table(scores, total)
    assert scores["documents"] == len(wanted) and scores["left_out"] == 40 - len(wanted)
    assert scores["accuracy"] == pytest.approx(sum(w == c for w, c in zip(wanted, claimed)) / len(wanted))
    if exclusive:
        pairs = [(w[0][1], c[0][1]) for w, c in zip(wanted, claimed)]
        assert scores["confusion"]["counts"] == [[pairs.count((row, column)) for column in labels] for row in labels]


# --- spaCy's scorer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_as_spacy_where_it_is_right(seed):
    gold, predicted = random_pair(seed, retokenize=False, missing=0.0)
    examples = make_examples(gold, predicted)
    scores = score_docs(gold, predicted)
    layers, shown = scores["layers"], scores["spacy"]
    for layer in ("tag", "pos", "lemma"):
        spacys = Scorer.score_token_attr(examples, layer)[f"{layer}_acc"]
        assert layers[layer]["accuracy"] == pytest.approx(spacys) == pytest.approx(shown[f"{layer}_acc"])
    spacys = Scorer.score_token_attr(examples, "morph", getter=lambda token, attr: token.morph.key)["morph_acc"]
    assert layers["morph"]["accuracy"] == pytest.approx(spacys) == pytest.approx(shown["morph_acc"])
    assert layers["sentences"]["f1"] == pytest.approx(Scorer.score_spans(examples, "sents")["sents_f"])
    assert layers["sentences"]["precision"] == pytest.approx(shown["sents_p"])

    def dep(token, attr):
        return token.dep_.lower()

    spacys = Scorer.score_deps(examples, "dep", getter=dep, ignore_labels=("p", "punct"))
    words = layers["dependencies"]["without_punctuation"]
    assert words["uas"]["f1"] == pytest.approx(spacys["dep_uas"]) == pytest.approx(shown["dep_uas"])
    assert words["las"]["f1"] == pytest.approx(spacys["dep_las"]) == pytest.approx(shown["dep_las"])
    spacys = Scorer.score_deps(examples, "dep", getter=dep)
    assert layers["dependencies"]["with_punctuation"]["uas"]["f1"] == pytest.approx(spacys["dep_uas"])
    assert layers["dependencies"]["with_punctuation"]["las"]["f1"] == pytest.approx(spacys["dep_las"])
    rows = layers["dependencies"]["relations"]["labels"]
    for relation, row in spacys["dep_las_per_type"].items():
        assert prf(rows[relation]) == pytest.approx((row["p"], row["r"], row["f"]))
    spacys = get_ner_prf(examples)
    table = scores["entities"]["spans"]
    assert prf(table["micro"]) == pytest.approx((spacys["ents_p"], spacys["ents_r"], spacys["ents_f"]))
    assert shown["ents_f"] == pytest.approx(spacys["ents_f"])
    for kind, row in spacys["ents_per_type"].items():
        assert prf(table["labels"][kind]) == pytest.approx((row["p"], row["r"], row["f"]))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_as_spacy_with_other_tokens(seed):
    gold, predicted = random_pair(seed, missing=0.0)
    examples = make_examples(gold, predicted)
    scores, spacys = tokenization_scores(examples), Scorer.score_tokenization(examples)
    assert prf(scores) == pytest.approx((spacys["token_p"], spacys["token_r"], spacys["token_f"]))
    assert scores["f1"] < 1


def test_features_are_spacys_without_empty_sets():
    morphs = MORPHS[1:]
    rng = random.Random(1)
    gold = [build("a b c d e", morphs=[rng.choice(morphs) for _ in range(5)]) for _ in range(9)]
    predicted = [build("a b c d e", morphs=[rng.choice(morphs) for _ in range(5)]) for _ in range(9)]
    examples = make_examples(gold, predicted)
    spacys = Scorer.score_token_attr_per_feat(examples, "morph", getter=lambda token, attr: token.morph.key)
    table = feature_scores(examples)
    assert prf(table["micro"]) == pytest.approx(tuple(spacys[f"morph_micro_{key}"] for key in "prf"))
    for name, row in spacys["morph_per_feat"].items():
        assert prf(table["labels"][name]) == pytest.approx((row["p"], row["r"], row["f"]))


@pytest.mark.parametrize("exclusive", [True, False])
def test_categories_are_spacys(exclusive):
    rng = random.Random(3)
    labels = ["a", "b", "c"]
    gold, predicted = [build("uno") for _ in range(30)], [build("uno") for _ in range(30)]
    for reference, doc in zip(gold, predicted):
        right = rng.choice(labels)
        reference.cats = {label: float(label == right or (not exclusive and rng.random() < 0.3)) for label in labels}
        doc.cats = {label: rng.random() for label in labels}
    examples = make_examples(gold, predicted)
    spacys = Scorer.score_cats(examples, "cats", labels=labels, multi_label=not exclusive, threshold=0.5)
    scores = category_scores(examples, labels=labels, exclusive=exclusive)
    assert prf(scores["micro"]) == pytest.approx(tuple(spacys[f"cats_micro_{key}"] for key in "prf"))
    assert prf(scores["macro"]) == pytest.approx(tuple(spacys[f"cats_macro_{key}"] for key in "prf"))
    whole = score_docs(gold, predicted, labels={"textcat": CategoryGroup(tuple(labels), exclusive)})
    assert whole["categories"]["textcat"] == scores
    assert whole["spacy"]["cats_macro_f"] == pytest.approx(spacys["cats_macro_f"])


# --- worked by hand ---------------------------------------------------------------------------------------------------

TRAVEL = "Ana Ruiz vive en La Paz Bolivia y Marta en Lima"


def test_entities_by_hand():
    """An entity cut short, a wrong type, one word too many, and two adjacent ones of a type."""
    gold = build(TRAVEL, ents=["B-PER", "I-PER", "O", "O", "B-LOC", "I-LOC", "B-LOC", "O", "B-PER", "O", "B-LOC"])
    doc = build(TRAVEL, ents=["B-PER", "O", "O", "O", "B-LOC", "I-LOC", "B-ORG", "O", "B-PER", "B-LOC", "I-LOC"])
    examples = make_examples([gold], [doc])
    table = entity_scores(examples)
    assert prf(table["labels"]["PER"]) == pytest.approx((1 / 2, 1 / 2, 1 / 2))
    assert prf(table["labels"]["LOC"]) == pytest.approx((1 / 2, 1 / 3, 2 / 5))
    assert prf(table["labels"]["ORG"]) == (0.0, 0.0, 0.0)
    assert [table["labels"][kind]["support"] for kind in ("PER", "LOC", "ORG")] == [2, 3, 0]
    assert prf(table["micro"]) == pytest.approx((2 / 5, 2 / 5, 2 / 5))
    assert prf(table["macro"]) == pytest.approx((1 / 3, 5 / 18, 3 / 10))
    assert prf(table["weighted"]) == pytest.approx((1 / 2, 2 / 5, 11 / 25))
    tags = entity_tag_scores(examples)
    assert tags["accuracy"] == pytest.approx(7 / 11)
    assert prf(tags["labels"]["B-LOC"]) == pytest.approx((1 / 2, 1 / 3, 2 / 5))
    assert prf(tags["labels"]["I-PER"]) == (0.0, 0.0, 0.0)
    assert prf(tags["labels"]["O"]) == pytest.approx((3 / 4, 3 / 4, 3 / 4))
    assert list(tags["labels"]) == ["B-LOC", "B-ORG", "B-PER", "I-LOC", "I-PER", "O"]


def test_adjacent_entities_are_not_one():
    gold = build("La Paz Bolivia", ents=["B-LOC", "I-LOC", "B-LOC"])
    doc = build("La Paz Bolivia", ents=["B-LOC", "I-LOC", "I-LOC"])
    assert prf(entity_scores(make_examples([gold], [doc]))["micro"]) == (0.0, 0.0, 0.0)
    assert prf(entity_scores(make_examples([gold], [gold]))["micro"]) == (1.0, 1.0, 1.0)


def test_equal_counts_are_counted_each():
    """Two types with the same counts: a sum over a set of counts would take them for one."""
    gold = build("a b c d", ents=["B-PER", "B-PER", "B-LOC", "B-LOC"])
    doc = build("a b c d", ents=["B-PER", "O", "B-LOC", "O"])
    table = entity_scores(make_examples([gold], [doc]))
    assert (table["micro"]["correct"], table["micro"]["predicted"], table["micro"]["support"]) == (2, 2, 4)
    assert prf(table["micro"]) == pytest.approx((1, 1 / 2, 2 / 3))


def test_entities_without_annotation_are_left_out():
    unknown, doc = build(TRAVEL), build(TRAVEL, ents=["B-PER"] + ["O"] * 10)
    assert entity_scores(make_examples([unknown], [doc])) is None
    assert entity_tag_scores(make_examples([unknown], [doc])) is None
    gold = build("Ana y Eva", ents=["B-PER", "O", "O"])
    gold.set_ents([Span(gold, 0, 1, "PER")], missing=[Span(gold, 2, 3)], default="outside")
    right = build("Ana y Eva", ents=["B-PER", "O", "B-PER"])  # the second touches only missing annotation
    wide = build("Ana y Eva", ents=["B-PER", "B-PER", "I-PER"])  # here it also touches an O
    table = entity_scores(make_examples([gold, unknown], [right, doc]))
    assert prf(table["micro"]) == (1.0, 1.0, 1.0) and table["micro"]["support"] == 1
    tags = entity_tag_scores(make_examples([gold, unknown], [right, doc]))
    assert tags["accuracy"] == 1.0 and tags["micro"]["support"] == tags["micro"]["predicted"] == 2
    assert prf(entity_scores(make_examples([gold], [wide]))["micro"]) == pytest.approx((1 / 2, 1, 2 / 3))


def test_gold_without_entities_has_no_score_but_claims_have():
    gold, doc = build("a b", ents=["O", "O"]), build("a b", ents=["B-PER", "O"])
    assert prf(entity_scores(make_examples([gold], [gold]))["micro"]) == (None, None, None)
    assert prf(entity_scores(make_examples([gold], [doc]))["micro"]) == (0.0, 0.0, 0.0)


def categories(pairs, labels):
    gold, predicted = [], []
    for wanted, claimed in pairs:
        gold.append(build("x"))
        predicted.append(build("x"))
        gold[-1].cats = {label: float(label == wanted) for label in labels}
        predicted[-1].cats = {label: 0.8 if label == claimed else 0.1 for label in labels}
    return make_examples(gold, predicted)


def test_confusion_by_hand():
    """Six P (4 right, 2 as N), three N (2 right, 1 as NEU), one NEU (as P), one document without gold."""
    pairs = [("P", "P")] * 4 + [("P", "N")] * 2 + [("N", "N")] * 2 + [("N", "NEU"), ("NEU", "P"), (None, "P")]
    labels = ["N", "NEU", "P"]
    scores = category_scores(categories(pairs, labels), labels=labels)
    assert scores["confusion"] == {"rows": labels, "columns": labels, "counts": [[2, 1, 0], [0, 0, 1], [2, 0, 4]]}
    assert (scores["documents"], scores["left_out"], scores["accuracy"]) == (10, 1, 0.6)
    assert prf(scores["labels"]["P"]) == pytest.approx((4 / 5, 4 / 6, 8 / 11))
    assert prf(scores["labels"]["N"]) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    assert prf(scores["labels"]["NEU"]) == (0.0, 0.0, 0.0)
    assert scores["micro"]["f1"] == pytest.approx(0.6)
    assert scores["macro"]["f1"] == pytest.approx((8 / 11 + 4 / 7 + 0) / 3)
    assert scores["weighted"]["f1"] == pytest.approx((6 * 8 / 11 + 3 * 4 / 7) / 10)
    assert scores["macro"]["f1"] != pytest.approx(scores["weighted"]["f1"], abs=0.05)


def test_categories_that_never_occur_lower_no_average():
    scores = category_scores(categories([("a", "a"), ("b", "b")], ["a", "b", "c"]), labels=["a", "b", "c"])
    assert scores["macro"]["f1"] == 1.0 and prf(scores["labels"]["c"]) == (None, None, None)


def test_categories_that_the_pipeline_does_not_know_are_listed():
    examples = categories([("a", "a"), ("z", "a")], ["a", "b", "z"])
    scores = category_scores(examples, labels=["a", "b"])
    assert scores["unknown"] == {"z": 1} and scores["documents"] == 1 and scores["left_out"] == 1
    assert category_scores(examples, labels=["q"]) is None


def test_a_document_without_predicted_category_is_wrong():
    gold, doc = build("x"), build("x")
    gold.cats = {"a": 1.0, "b": 0.0}
    scores = category_scores(make_examples([gold], [doc]), labels=["a", "b"])
    assert scores["confusion"] == {
        "rows": ["a", "b"],
        "columns": ["a", "b", "(none)"],
        "counts": [[0, 0, 1], [0, 0, 0]],
    }
    assert scores["accuracy"] == 0.0 and scores["labels"]["a"]["recall"] == 0.0
    doc.cats = {"a": math.nan, "b": 0.2}
    assert category_scores(make_examples([gold], [doc]))["labels"]["b"]["predicted"] == 1
    assert score_docs([gold], [build("x")], layers=["categories"])["categories"]["categories"]["accuracy"] == 0.0


def test_multilabel_by_hand():
    gold, predicted = [build("x") for _ in range(4)], [build("x") for _ in range(4)]
    for doc, cats in zip(gold, ({"a": 1, "b": 1}, {"a": 1, "b": 0}, {"a": 0}, {})):
        doc.cats = {label: float(value) for label, value in cats.items()}
    for doc, cats in zip(predicted, ({"a": 0.5, "b": 0.49}, {"a": 0.9, "b": 0.6}, {"a": 0.1, "b": 1.0}, {"a": 1.0})):
        doc.cats = cats
    scores = category_scores(make_examples(gold, predicted), exclusive=False)
    assert prf(scores["labels"]["a"]) == (1.0, 1.0, 1.0)
    assert prf(scores["labels"]["b"]) == (0.0, 0.0, 0.0) and scores["labels"]["b"]["predicted"] == 1
    assert prf(scores["micro"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert scores["accuracy"] == pytest.approx(1 / 3) and scores["documents"] == 3 and "confusion" not in scores


CAT = "El gato duerme ."
CAT_SPACES = [True, True, False, False]


def cat(**changes):
    layers = {
        "tags": ["DA", "NC", "VM", "Fp"],
        "pos": ["DET", "NOUN", "VERB", "PUNCT"],
        "morphs": ["Gender=Masc", "Gender=Masc", "Tense=Pres", ""],
        "lemmas": ["el", "gato", "dormir", "."],
        "heads": [1, 2, 2, 2],
        "deps": ["det", "nsubj", "root", "punct"],
        **changes,
    }
    return build(CAT, spaces=CAT_SPACES, **layers)


def test_attachment_by_hand():
    """Of four arcs, one has another relation and the full stop another head."""
    doc = cat(deps=["det", "obj", "ROOT", "punct"], heads=[1, 2, 2, 1])
    scores = dependency_scores(make_examples([cat()], [doc]))
    assert scores["with_punctuation"]["uas"]["f1"] == pytest.approx(3 / 4)
    assert scores["with_punctuation"]["las"]["f1"] == pytest.approx(2 / 4)
    assert scores["without_punctuation"]["uas"]["f1"] == pytest.approx(3 / 3)
    assert scores["without_punctuation"]["las"]["f1"] == pytest.approx(2 / 3)
    rows = scores["relations"]["labels"]
    assert {label: row["correct"] for label, row in rows.items()} == {
        "det": 1,
        "nsubj": 0,
        "obj": 0,
        "punct": 0,
        "root": 1,
    }
    assert rows["obj"]["support"] == 0 and rows["obj"]["predicted"] == 1 and rows["punct"]["support"] == 1
    assert scores["relations"]["macro"]["f1"] == pytest.approx(2 / 5)


def test_a_word_taken_for_punctuation_lowers_recall_only():
    doc = cat(deps=["det", "punct", "ROOT", "punct"])
    scores = dependency_scores(make_examples([cat()], [doc]))["without_punctuation"]
    assert prf(scores["uas"]) == pytest.approx((1, 2 / 3, 4 / 5))
    assert scores["uas"]["support"] == 3 and scores["uas"]["predicted"] == 2


def test_features_by_hand():
    """An invented feature, a wrong value and a lost one; a feature on a token without any is wrong."""
    doc = cat(morphs=["Gender=Masc|Number=Sing", "Gender=Fem", "", "Gender=Masc"])
    table = feature_scores(make_examples([cat()], [doc]))
    assert prf(table["labels"]["Gender"]) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert prf(table["labels"]["Number"]) == prf(table["labels"]["Tense"]) == (0.0, 0.0, 0.0)
    assert prf(table["micro"]) == pytest.approx((1 / 4, 1 / 3, 2 / 7))
    assert attribute_scores(make_examples([cat()], [doc]), "morph")["accuracy"] == 0.0


def test_other_tokens_by_hand():
    """Gold has `del`, the pipeline `de` and `l`: neither part is the token."""
    gold = Doc(VOCAB, words=["Sale", "del", "bar"], spaces=[True, True, False], tags=["V", "S", "N"])
    doc = Doc(VOCAB, words=["Sale", "de", "l", "bar"], spaces=[True, False, True, False], tags=["V", "S", "S", "N"])
    examples = make_examples([gold], [doc])
    assert prf(tokenization_scores(examples)) == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    scores = attribute_scores(examples, "tag")
    assert scores["accuracy"] == pytest.approx(2 / 3) and scores["aligned_accuracy"] == 1.0 and scores["aligned"] == 2


def test_whitespace_counts_nowhere():
    words, spaces = ["Uno", "\n\n", "dos", " "], [False, False, True, False]
    layers = {"heads": [0, 0, 1, 2], "deps": ["ROOT", "dep", "obj", "dep"], "pos": ["NOUN", "SPACE", "NUM", "SPACE"]}
    gold = Doc(VOCAB, words=words, spaces=spaces, tags=["N", "_SP", "Z", "_SP"], **layers)
    doc = Doc(
        VOCAB,
        words=["Uno", "\n", "\n", "dos", " "],
        spaces=[False, False, False, True, False],
        tags=["N", "x", "x", "Z", "x"],
    )
    scores = score_docs([gold], [doc])
    assert scores["tokens"] == 2 and scores["layers"]["tokenization"]["f1"] == 1.0
    assert scores["layers"]["tag"] == {
        "accuracy": 1.0,
        "aligned_accuracy": 1.0,
        "support": 2,
        "aligned": 2,
        "correct": 2,
    }
    scores = dependency_scores(
        make_examples([gold], [Doc(VOCAB, words=words, spaces=spaces, **{**layers, "heads": [0, 0, 0, 2]})])
    )
    assert scores["with_punctuation"]["las"]["f1"] == 1.0  # past the whitespace, both heads are the first word
    assert scores["with_punctuation"]["las"]["support"] == 2


def test_sentence_ends_without_whitespace():
    gold = Doc(VOCAB, words=["A", ".", "\n", "B"], spaces=[False] * 4, sent_starts=[True, False, False, True])
    doc = Doc(VOCAB, words=["A", ".", "\n", "B"], spaces=[False] * 4, sent_starts=[True, False, True, False])
    assert prf(sentence_scores(make_examples([gold], [doc]))) == (1.0, 1.0, 1.0)
    unset = Doc(VOCAB, words=["A", ".", "\n", "B"], spaces=[False] * 4)
    assert sentence_scores(make_examples([unset], [doc])) is None
    assert prf(sentence_scores(make_examples([gold], [unset]))) == (0.0, 0.0, 0.0)


def test_missing_layers_have_no_entry():
    bare, full = build(CAT, spaces=CAT_SPACES), cat()
    scores = score_docs([bare], [full])
    assert set(scores["layers"]) == {"tokenization"}
    assert scores["entities"] == scores["categories"] == scores["conll18"] == {}
    assert set(scores["spacy"]) == {"token_acc", "token_p", "token_r", "token_f"}
    assert scores["unscored"]["pipeline_only"] == ["tag", "pos", "morph", "lemma", "sentences", "dependencies"]
    scores = score_docs([full], [bare])
    assert set(scores["layers"]) == {"tokenization"}
    assert scores["unscored"]["corpus_only"] == ["tag", "pos", "morph", "lemma", "sentences", "dependencies"]
    assert scores["conll18"]["metrics"]["UPOS"] is None and scores["conll18"]["metrics"]["Words"]["f1"] == 1.0
    scores = score_docs([full], [bare], layers=["tag"])  # a tagger that says nothing is wrong, not absent
    assert scores["layers"]["tag"]["accuracy"] == 0.0 and "pos" not in scores["layers"]
    mixed = score_docs([full, bare], [cat(tags=["DA", "DA", "VM", "Fp"]), full])
    assert mixed["layers"]["tag"]["accuracy"] == 3 / 4 and mixed["layers"]["tag"]["support"] == 4
    assert "tokenization" not in score_docs([full], [full], tokenization=False)["layers"]


def test_missing_values_are_left_out():
    gold = cat(tags=["DA", "", "VM", ""], lemmas=["el", "", "", ""], deps=["det", "", "root", ""])
    doc = cat(tags=["DA", "NC", "NC", "NC"])
    scores = score_docs([gold], [doc])["layers"]
    assert (scores["tag"]["correct"], scores["tag"]["support"]) == (1, 2)
    assert (scores["lemma"]["correct"], scores["lemma"]["support"]) == (1, 1)
    las = scores["dependencies"]["with_punctuation"]["las"]
    assert (las["correct"], las["predicted"], las["support"]) == (2, 2, 2)


def test_documents_must_go_together():
    with pytest.raises(CorpusError, match="B401"):
        make_examples([build("a")], [])
    with pytest.raises(CorpusError, match="B402.*document 2"):
        make_examples([build("a"), build("b")], [build("a"), build("c")])
    assert score_docs([], [])["documents"] == 0
    assert score_docs([build("a"), Doc(VOCAB)], [build("a"), Doc(VOCAB)])["documents"] == 2


# --- CoNLL-U and CoNLL-18 ---------------------------------------------------------------------------------------------


def load(text):
    return load_conllu(io.StringIO(text), "test", {})


def rows_of(text):
    return [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]


def test_conllu_as_it_is_written():
    assert doc_to_conllu(cat(), prefix="7-") == (
        "# sent_id = 7-1\n"
        "# text = El gato duerme.\n"
        "1\tEl\tel\tDET\tDA\tGender=Masc\t2\tdet\t_\t_\n"
        "2\tgato\tgato\tNOUN\tNC\tGender=Masc\t3\tnsubj\t_\t_\n"
        "3\tduerme\tdormir\tVERB\tVM\tTense=Pres\t0\troot\t_\tSpaceAfter=No\n"
        "4\t.\t.\tPUNCT\tFp\t_\t3\tpunct\t_\t_\n"
        "\n"
    )
    assert doc_to_conllu(Doc(VOCAB)) == "" == doc_to_conllu(Doc(VOCAB, words=["\n", " "]))


def test_conllu_of_odd_texts():
    """Whitespace tokens, whitespace in tokens, control characters that split lines, a hash sign."""
    words = ["#", "Nueva York", "\n\n", "a\tb", "c\u2028d", "\u00a0", "fin\n"]
    doc = Doc(VOCAB, words=words, spaces=[False, True, False, True, False, False, False])
    text = doc_to_conllu(doc)
    assert [row[1] for row in rows_of(text)] == ["#", "Nueva York", "a b", "c d", "fin"]
    assert "# text = #Nueva York a b c d fin\n" in text
    assert [row[9] for row in rows_of(text)] == ["SpaceAfter=No", "_", "_", "_", "_"]
    assert "".join(load(text).characters) == "#NuevaYorkabcdfin"
    other = spacy.blank("es", vocab=VOCAB)(doc.text)
    assert [t.text for t in other] != words
    metrics = conll18_scores(make_examples([set_tags(doc)], [set_tags(other)]))["metrics"]
    assert 0 < metrics["Words"]["f1"] < 1


def set_tags(doc):
    for token in doc:
        token.tag_ = "X"
    return doc


def tree_of(text):
    return [(int(row[6]), row[7]) for row in rows_of(text)]


def test_conllu_trees_are_valid():
    bare = build("a b c")
    assert tree_of(doc_to_conllu(bare)) == [(0, "root"), (1, "dep"), (1, "dep")]
    several = Doc(VOCAB, words=["a", "b", "c", "d"], heads=[0, 1, 1, 3], deps=["punct", "ROOT", "obj", "ROOT"])
    flags = [True, False, False, False]
    assert [t.is_sent_start for t in several] != flags
    # Without its sentence boundaries the document is one sentence with several roots.
    assert tree_of(doc_to_conllu(several, layers=["dependencies"])) == [
        (2, "punct"),
        (0, "root"),
        (2, "obj"),
        (2, "dep"),
    ]
    cycle = Doc(VOCAB, words=["a", "b", "c"], heads=[1, 0, 1], deps=["x", "y", "z"])
    assert tree_of(doc_to_conllu(cycle, layers=["dependencies"])) == [(0, "root"), (1, "y"), (2, "z")]
    false_root = Doc(VOCAB, words=["a", "b"], heads=[0, 0], deps=["ROOT", "root"])
    assert tree_of(doc_to_conllu(false_root)) == [(0, "root"), (1, "dep")]
    outside = Doc(VOCAB, words=["\n", "a", "b"], heads=[0, 0, 0], deps=["ROOT", "obj", "iobj"])
    assert tree_of(doc_to_conllu(outside)) == [(0, "root"), (1, "iobj")]
    for doc in (bare, several, cycle, false_root, outside):
        load(doc_to_conllu(doc))


@pytest.mark.parametrize("seed", SEEDS)
def test_conllu_round_trip(seed):
    gold, predicted = random_pair(seed)
    for doc in gold:  # some have words without head and relation
        assert len(load(doc_to_conllu(doc)).words) == len(doc)
    gold, predicted = random_pair(seed, missing=0.0)
    for doc in (*gold, *predicted):
        text = doc_to_conllu(doc)
        ud = load(text)
        assert "".join(ud.characters) == re.sub(r"\s", "", doc.text)
        assert len(ud.words) == len(doc) and len(ud.sentences) == len(list(doc.sents))
        for token, word in zip(doc, ud.words):
            form, lemma, pos, tag, morph = word.columns[1:6]
            assert (form, lemma, pos, tag, morph.replace("_", "")) == (
                token.text,
                token.lemma_ or "_",
                token.pos_ or "_",
                token.tag_ or "_",
                str(token.morph),
            )
            assert (word.parent is None) == (token.head.i == token.i)
            if word.parent is not None:
                assert ud.words.index(word.parent) == token.head.i and word.columns[7] == (token.dep_ or "dep")
        texts = re.findall(r"# text = (.*)", text)
        assert texts == [sentence.text for sentence in doc.sents]


def test_conll18_of_gold_itself_is_perfect():
    metrics = conll18_scores(make_examples([cat(), cat()], [cat(), cat()]))["metrics"]
    names = "Tokens Sentences Words UPOS XPOS UFeats AllTags Lemmas UAS LAS CLAS MLAS BLEX"
    assert list(metrics) == names.split()
    for metric, score in metrics.items():
        assert (score["precision"], score["recall"], score["f1"]) == (1.0, 1.0, 1.0)
        assert score["aligned_accuracy"] == (None if metric in ("Tokens", "Sentences", "Words") else 1.0)


def test_conll18_by_hand():
    """Two content words, nsubj and root; the article belongs to the first and counts in its MLAS only."""

    def f1(doc):
        scores = conll18_scores(make_examples([cat()], [doc]))["metrics"]
        return {metric: score["f1"] for metric, score in scores.items() if score["f1"] != 1.0}

    relation = cat(
        pos=["DET", "PROPN", "VERB", "PUNCT"],
        deps=["det", "obj", "ROOT", "punct"],
        lemmas=["la", "gato", "dormir", "."],
    )
    assert f1(relation) == {
        "UPOS": 3 / 4, "AllTags": 3 / 4, "Lemmas": 3 / 4, "LAS": 3 / 4, "CLAS": 1 / 2, "MLAS": 1 / 2, "BLEX": 1 / 2,
    }  # fmt: skip
    assert f1(cat(pos=["PRON", "NOUN", "VERB", "PUNCT"])) == {"UPOS": 3 / 4, "AllTags": 3 / 4, "MLAS": 1 / 2}
    assert f1(cat(lemmas=["el", "gata", "dormir", "."])) == {"Lemmas": 3 / 4, "BLEX": 1 / 2}
    assert f1(cat(heads=[2, 2, 2, 2])) == {"UAS": 3 / 4, "LAS": 3 / 4, "MLAS": 0.0}
    # `gato` cut in two: 3 of 4 gold tokens, 3 of 5 predicted; the article's head and the nsubj are lost.
    layers = {"heads": [1, 3, 1, 3, 3], "deps": ["det", "nsubj", "flat", "ROOT", "punct"]}
    cut = Doc(VOCAB, words=["El", "ga", "to", "duerme", "."], spaces=[True, False, True, False, False], **layers)
    metrics = conll18_scores(make_examples([cat()], [cut]))["metrics"]
    assert metrics["Words"]["precision"] == 3 / 5 and metrics["Words"]["recall"] == 3 / 4
    assert metrics["LAS"]["f1"] == pytest.approx(2 * 2 / 9) and metrics["LAS"]["aligned_accuracy"] == pytest.approx(
        2 / 3
    )
    assert metrics["UPOS"] is None and metrics["MLAS"] is None


@pytest.mark.parametrize("seed", SEEDS)
def test_conll18_agrees_with_the_other_scores(seed):
    gold, predicted = random_pair(seed, missing=0.0)
    examples = make_examples(gold, predicted)
    metrics = conll18_scores(examples)["metrics"]
    assert prf(metrics["Tokens"]) == pytest.approx(prf(tokenization_scores(examples)))
    assert prf(metrics["Sentences"]) == pytest.approx(prf(sentence_scores(examples)))
    arcs = dependency_scores(examples)["with_punctuation"]
    for metric, measure in (("UAS", "uas"), ("LAS", "las")):
        assert prf(metrics[metric]) == pytest.approx(prf(arcs[measure]))
    for metric, layer in (("UPOS", "pos"), ("XPOS", "tag"), ("UFeats", "morph"), ("Lemmas", "lemma")):
        assert metrics[metric]["recall"] == pytest.approx(attribute_scores(examples, layer)["accuracy"])


def test_conll18_blank_columns():
    """What gold lacks is blank on both sides, so that AllTags is about the columns that gold has."""
    untagged = cat(tags=None)
    metrics = conll18_scores(make_examples([untagged], [cat()]))["metrics"]
    assert metrics["XPOS"] is None and metrics["AllTags"]["f1"] == 1.0
    scores = conll18_scores(make_examples([cat(), build("Hola mundo")], [cat(), build("Hola mundo")]))
    assert scores["documents"] == 1
    assert conll18_scores(make_examples([build("a b")], [cat_like("a b")])) is None


def cat_like(text):
    return build(text, pos=["NOUN"] * len(text.split(" ")))


def test_conll18_of_a_very_deep_tree():
    size = 3000
    doc = build(" ".join(["a"] * size), heads=[0, *range(size - 1)], deps=["ROOT"] + ["flat"] * (size - 1))
    limit = sys.getrecursionlimit()
    assert conll18_scores(make_examples([doc], [doc]))["metrics"]["LAS"]["f1"] == 1.0
    assert sys.getrecursionlimit() == limit


def test_conllu_scores_are_the_evaluators():
    gold, predicted = random_pair(11, missing=0.0, documents=3)
    sides = ["".join(doc_to_conllu(doc) for doc in docs) for docs in (gold, predicted)]
    official = evaluate(*map(load, sides))
    metrics = conll18_scores(make_examples(gold, predicted))["metrics"]
    for metric, score in metrics.items():
        assert score["f1"] == official[metric].f1
    assert 0 < metrics["BLEX"]["f1"] < metrics["CLAS"]["f1"]


# --- pipelines and reports --------------------------------------------------------------------------------------------

SENTENCES = ["Ana vive en Lima. ¡Qué bien!", "Marta viajó a Bogotá.", "El hotel es malo."]


@Language.component("test_evaluate_breaks")
def breaks(doc):
    if "malo" in doc.text:
        raise RuntimeError("no room left")
    return doc


@Language.component("test_evaluate_cats")
def cats(doc):
    doc.cats = {"P": 0.0, "N": 1.0}
    return doc


def pipeline(*extra):
    """Rules for sentences, tags and entities, and a text categorizer with random weights."""
    nlp = spacy.blank("es")
    nlp.add_pipe("sentencizer")
    ruler = nlp.add_pipe("entity_ruler")
    tags = nlp.add_pipe("attribute_ruler")
    textcat = nlp.add_pipe("textcat")
    for label in ("N", "P"):
        textcat.add_label(label)
    nlp.initialize()  # before there are rules, since this removes them
    ruler.add_patterns(
        [{"label": "PER", "pattern": "Ana"}, {"label": "LOC", "pattern": "Marta"}, {"label": "LOC", "pattern": "Lima"}]
    )
    tags.add([[{"IS_PUNCT": True}]], {"POS": "PUNCT"})
    tags.add([[{"IS_PUNCT": False}]], {"POS": "NOUN"})
    for name in extra:
        nlp.add_pipe(name)
    return nlp


def gold_docs(nlp):
    docs = []
    for text, words in zip(SENTENCES, ({"Ana": "PER", "Lima": "LOC"}, {"Marta": "PER", "Bogotá": "LOC"}, {})):
        doc = nlp.make_doc(text)
        doc.set_ents([Span(doc, t.i, t.i + 1, words[t.text]) for t in doc if t.text in words])
        for token in doc:
            token.pos_ = "PUNCT" if token.is_punct else "PROPN" if token.text in words else "NOUN"
            token.is_sent_start = token.i == 0 or doc[token.i - 1].text == "."
        doc.cats = {"N": float("malo" in text), "P": float("bien" in text)}
        docs.append(doc)
    return docs


def save(path, docs):
    DocBin(docs=docs, store_user_data=True).to_disk(path)
    return path


@pytest.fixture
def corpora(tmp_path):
    nlp = spacy.blank("es")
    (tmp_path / "corpora").mkdir()
    full = save(tmp_path / "corpora" / "todo.spacy", gold_docs(nlp))
    docs = [Doc(nlp.vocab, words=["Ana", "y", "Eva"], ents=["B-PER", "O", "B-PER"])]
    entities = save(tmp_path / "corpora" / "nombres.spacy", docs)
    return [full, entities]


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_evaluate_model_writes_its_report(tmp_path, corpora):
    pytest.importorskip("matplotlib")
    output = tmp_path / "new" / "report"
    report = evaluate_model(pipeline(), corpora, output, title="Prueba", n_words_per_second_runs=2)
    assert json.loads((output / "report.json").read_text(encoding="utf8")) == report
    plots = [
        "nombres--entities.png",
        "nombres--layers.png",
        "todo--confusion-textcat.png",
        "todo--entities.png",
        "todo--layers.png",
    ]
    assert sorted(report["plots"]) == plots
    assert files_in(output) == ["plots", *(f"plots/{name}" for name in plots), "report.json", "report.md"]
    for name in plots:
        data = (output / "plots" / name).read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 2000
    assert report["model"] == {
        "name": "pipeline",
        "version": "0.0.0",
        "lang": "es",
        "pipeline": ["sentencizer", "entity_ruler", "attribute_ruler", "textcat"],
        "layers": ["pos", "sentences", "entities", "categories"],
    }
    full, names = report["corpora"]["todo"], report["corpora"]["nombres"]
    assert full["documents"] == 3 and full["tokens"] == 19 and full["gold_tokens"] == 0
    assert full["layers"]["tokenization"]["f1"] == 1.0
    # The sentencizer leaves the ¡ to the sentence before, so two of four are right.
    assert prf(full["layers"]["sentences"]) == pytest.approx((2 / 4, 2 / 4, 2 / 4))
    assert full["layers"]["pos"]["accuracy"] == pytest.approx(15 / 19)
    assert prf(full["entities"]["spans"]["labels"]["LOC"]) == pytest.approx((1 / 2, 1 / 2, 1 / 2))
    assert prf(full["entities"]["spans"]["labels"]["PER"]) == pytest.approx((1, 1 / 2, 2 / 3))
    assert full["categories"]["textcat"]["documents"] == 2 and full["categories"]["textcat"]["left_out"] == 1
    assert full["conll18"]["metrics"]["UPOS"]["f1"] == pytest.approx(15 / 19)
    assert full["unscored"] == {"corpus_only": [], "pipeline_only": []}
    assert names["gold_tokens"] == 1 and "tokenization" not in names["layers"] and names["categories"] == {}
    assert prf(names["entities"]["spans"]["micro"]) == pytest.approx((1, 1 / 2, 2 / 3))
    speed = full["speed"]
    assert speed["words"] == 19 and len(speed["seconds"]) == 2 and speed["device"] == "cpu" and speed["threads"] >= 1
    assert 0 < speed["min"] <= speed["words_per_second"] <= speed["max"]
    summary = render_summary(report).splitlines()
    assert summary[0] == "todo: 3 documents, 19 tokens" and "nombres: 1 documents, 3 tokens" in summary
    assert "  Categories (macro F1)       33.33" in summary
    assert "  Part of speech (accuracy)   78.95" in summary and summary[-1].startswith("  Words a second (median)")
    text = (output / "report.md").read_text(encoding="utf8")
    assert text.startswith("# Prueba\n") and "| Part of speech | accuracy | 78.95 |" in text
    assert "![todo--entities](plots/todo--entities.png)" in text and "| Gold | N | P |" in text


def test_a_report_says_the_same_twice(tmp_path, corpora):
    nlp = pipeline()
    nlp.to_disk(tmp_path / "model")
    for run in ("one", "two"):
        evaluate_model(tmp_path / "model", corpora, tmp_path / run, n_words_per_second_runs=0, plots=False)
    for name in ("report.json", "report.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert files_in(tmp_path / "one") == ["report.json", "report.md"]
    report = json.loads((tmp_path / "one" / "report.json").read_text(encoding="utf8"))
    assert report["corpora"]["todo"]["speed"] == {} and "title" not in report
    assert not re.search(r"20\d\d-", (tmp_path / "one" / "report.md").read_text(encoding="utf8"))


def test_corpora_in_their_own_formats(tmp_path):
    """The scores of a file read on the fly are those of the same file converted."""
    rows = ["Ana B-PER", "vive O", "en O", "Lima B-LOC", ". O", "", "Marta B-PER", "ríe O", ". O", ""]
    (tmp_path / "x.iob").write_text("\n".join(rows), encoding="utf8")
    (tmp_path / "x.tsv").write_text("1\tes malo y más\tN\n2\testá bien así\tP\n", encoding="utf8")
    convert(tmp_path / "x.iob", tmp_path / "y.spacy")
    nlp = pipeline()
    options = dict(plots=False, n_words_per_second_runs=0)
    files = [tmp_path / name for name in ("x.iob", "x.tsv", "y.spacy")]
    report = evaluate_model(nlp, files, tmp_path / "out", **options)
    folder = tmp_path.name
    assert list(report["corpora"]) == [f"{folder}/x.iob", f"{folder}/x.tsv", "y"] and report["notes"] == []
    entities, categories, converted = report["corpora"].values()
    assert entities == converted and prf(entities["entities"]["spans"]["micro"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert categories["categories"]["textcat"]["documents"] == 2
    with pytest.raises(FormatError, match="B120.*x.iob:2"):
        files[0].write_text("Ana B-PER\nvive\n", encoding="utf8")
        evaluate_model(nlp, files[:1], tmp_path / "bad", **options)
    assert not (tmp_path / "bad").exists()


def test_annotation_that_was_left_out_is_noted(tmp_path):
    (tmp_path / "brat").mkdir()
    (tmp_path / "brat" / "d.txt").write_text("Ana vive en Lima.", encoding="utf8")
    marks = ["T1\tLOC 12 16\tLima\n"] + [f"T{i}\tPER 0 {i}\t{'Ana'[:i]}\n" for i in (1, 2)]
    (tmp_path / "brat" / "d.ann").write_text("".join(marks), encoding="utf8")
    report = evaluate_model(pipeline(), [tmp_path / "brat"], tmp_path / "out", plots=False, n_words_per_second_runs=0)
    (note,) = report["notes"]
    assert note.startswith("Of the corpus 'brat' 2 annotations were left out: ") and "d 0-2 PER" in note
    assert report["corpora"]["brat"]["entities"]["spans"]["micro"]["support"] == 1
    assert f"Note: {note}" in (tmp_path / "out" / "report.md").read_text(encoding="utf8")


def test_gold_tokens(tmp_path, corpora):
    report = evaluate_model(
        pipeline(), {"a/b": corpora[0]}, tmp_path / "out", gold_tokens=True, plots=False, batch_size=1
    )
    entry = report["corpora"]["a/b"]
    assert entry["gold_tokens"] == 3 and "tokenization" not in entry["layers"] and "token_f" not in entry["spacy"]
    assert entry["layers"]["pos"]["accuracy"] == pytest.approx(15 / 19) and entry["speed"]["batch_size"] == 1


def test_plots_need_matplotlib(tmp_path, corpora, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ProjectError, match=r"B411.*pip install 'beto_spacy\[plots\]'"):
        evaluate_model(pipeline(), corpora, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = evaluate_model(pipeline(), corpora, tmp_path / "out", plots=None)
    assert report["plots"] == [] and "beto_spacy[plots]" in report["notes"][0]
    assert "Note: No plots" in (tmp_path / "out" / "report.md").read_text(encoding="utf8")


def test_bad_input_is_refused(tmp_path, corpora):
    nlp, output = pipeline(), tmp_path / "out"
    taken = tmp_path / "taken"
    taken.write_text("mine")
    cases = [
        (ProjectError, "B513.*'nowhere'", dict(model="nowhere")),
        (ProjectError, "B514", dict(model=tmp_path)),
        (ProjectError, "B407.*folder", dict(output=taken)),
        (ProjectError, "B407.*folder", dict(output=taken / "deeper")),
        (CorpusError, "B405", dict(corpora=[])),
        (CorpusError, "B406", dict(corpora=[corpora[0], corpora[0]])),
        (CorpusError, "B210", dict(corpora=[tmp_path / "none.spacy"])),
        (ProjectError, "B408", dict(batch_size=0)),
        (ProjectError, "B408", dict(n_words_per_second_runs=-1)),
        (ProjectError, "B512", dict(model="nowhere", gpu_id=99)),
    ]
    for kind, message, change in cases:
        arguments = {"model": nlp, "corpora": corpora, "output": output, "plots": False, **change}
        with pytest.raises(kind, match=message):
            evaluate_model(arguments.pop("model"), arguments.pop("corpora"), arguments.pop("output"), **arguments)
        assert not output.exists() and taken.read_text() == "mine"
    (tmp_path / "odd" / "report.md").mkdir(parents=True)
    with pytest.raises(ProjectError, match="B407.*file"):
        evaluate_model(nlp, corpora, tmp_path / "odd", plots=False)


def test_a_corpus_without_a_common_layer_is_refused(tmp_path):
    nlp = spacy.blank("es")
    nlp.add_pipe("sentencizer")
    doc = nlp.make_doc("Muy bien")
    doc.cats = {"P": 1.0}
    path = save(tmp_path / "cats.spacy", [doc])
    with pytest.raises(CorpusError, match=r"B410.*'cats'.*it has categories \(categories: P\).*gives sentences"):
        evaluate_model(nlp, [path], tmp_path / "out", plots=False)
    path = save(tmp_path / "bare.spacy", [nlp.make_doc("Muy bien")])
    with pytest.raises(CorpusError, match="B410.*no annotation"):
        evaluate_model(nlp, [path], tmp_path / "out", plots=False)
    assert files_in(tmp_path) == ["bare.spacy", "cats.spacy"]


def test_a_failure_leaves_what_was_there(tmp_path, corpora, monkeypatch):
    output = tmp_path / "out"
    output.mkdir()
    (output / "report.json").write_text("old")
    before = files_in(tmp_path)
    with pytest.raises(ProjectError, match=r"B409.*'todo'.*RuntimeError: no room left"):
        evaluate_model(pipeline("test_evaluate_breaks"), corpora, output, plots=False)

    def full_disk(report):
        raise OSError(28, "No space left on device")

    def bug(report, folder):
        folder.mkdir()
        (folder / "half.png").write_bytes(b"x")
        raise KeyError("label")

    with monkeypatch.context() as patch:
        patch.setattr(module, "render_markdown", full_disk)
        with pytest.raises(ProjectError, match="B412.*No space left"):
            evaluate_model(pipeline(), corpora, output, plots=False)
    with monkeypatch.context() as patch:
        patch.setattr(module, "draw_plots", bug)
        patch.setitem(sys.modules, "matplotlib", types.ModuleType("matplotlib"))
        sys.modules["matplotlib"].__spec__ = types.SimpleNamespace(name="matplotlib")
        for folder in (output, tmp_path / "other" / "deep"):
            with pytest.raises(KeyError):
                evaluate_model(pipeline(), corpora, folder, plots=True)
    assert files_in(tmp_path) == before and (output / "report.json").read_text() == "old"


def test_layers_of_a_pipeline():
    nlp = spacy.blank("es")
    for name in ("tagger", "morphologizer", "parser", "ner", "trainable_lemmatizer", "textcat_multilabel"):
        nlp.add_pipe(name)
    assert pipeline_layers(nlp) == list(module.LAYERS)
    rules = pipeline()
    assert pipeline_layers(rules) == ["sentences", "entities", "categories"]
    assert pipeline_layers(rules, [rules("Hola .")]) == ["pos", "sentences", "entities", "categories"]
    assert layers_of([rules.make_doc("Hola"), Doc(VOCAB)]) == []  # one token is no sign of sentences


def test_category_groups():
    nlp = pipeline("test_evaluate_cats")
    other = nlp.add_pipe("textcat_multilabel", name="topics")
    other.add_label("deporte")
    groups = module.category_groups(nlp, [nlp.make_doc("x")])
    assert groups == {"textcat": CategoryGroup(("N", "P"), True), "topics": CategoryGroup(("deporte",), False)}
    nlp.remove_pipe("textcat")
    nlp.remove_pipe("topics")
    assert module.category_groups(nlp, [nlp("x")]) == {"categories": CategoryGroup(("N", "P"), True)}


def test_words_per_second_counts_words_and_takes_the_median(monkeypatch):
    nlp = spacy.blank("es")
    times = iter([0.0, 2.0, 10.0, 11.0, 20.0, 24.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    speed = words_per_second(nlp, [nlp.make_doc("uno  dos tres"), nlp.make_doc("cuatro\n")], runs=3, batch_size=7)
    assert speed["words"] == 4 and speed["seconds"] == [2.0, 1.0, 4.0] and speed["batch_size"] == 7
    assert (speed["words_per_second"], speed["min"], speed["max"]) == (2.0, 1.0, 4.0)


@pytest.mark.parametrize("warm_up", [True, False])
def test_warming_up_is_not_timed(monkeypatch, warm_up):
    nlp, events = spacy.blank("es"), []
    annotate = nlp.pipe

    def pipe(texts, **options):
        events.append(len(texts))
        return annotate(texts, **options)

    monkeypatch.setattr(nlp, "pipe", pipe)
    monkeypatch.setattr(module.time, "perf_counter", lambda: events.append("clock") or float(len(events)))
    speed = words_per_second(nlp, [nlp.make_doc("uno")] * 70, runs=1, warm_up=warm_up)
    assert events == [64] * warm_up + ["clock", 70, "clock"] and speed["words"] == 70


def test_numbers_that_json_lacks_become_null():
    assert module._finite({"a": [math.nan, 1.5, math.inf], "b": (1, "x")}) == {"a": [None, 1.5, None], "b": [1, "x"]}


def big_report():
    """A report with every part, and labels that Markdown and plots could stumble on."""
    gold, predicted = random_pair(5)
    labels = ("a|b", "$x$_$", "ñ")
    for n, (reference, doc) in enumerate(zip(gold, predicted)):
        reference.cats = {label: float(label == labels[n % 3]) for label in labels}
        doc.cats = {label: (n * i % 5) / 5 for i, label in enumerate(labels)}
    groups = {"textcat": CategoryGroup(labels), "topics": CategoryGroup(labels, False)}
    entry = {"gold_tokens": 0, **score_docs(gold, predicted, labels=groups), "speed": {}}
    return {"model": {}, "plots": [], "notes": [], "corpora": {"a b/c": entry, "a-b--c": entry}}


def test_markdown_has_every_table():
    report = big_report()
    text = render_markdown(report)
    assert text == render_markdown(json.loads(json.dumps(report)))
    entry = report["corpora"]["a b/c"]
    for heading in (
        "## Summary",
        "### Relations",
        "### Entities",
        "### Entity tags",
        "### Categories: textcat",
        "### Categories: topics",
        "### CoNLL 2018",
        "### Morphological features",
        "### spaCy's Scorer",
    ):
        assert heading in text
    row = entry["layers"]["dependencies"]["relations"]["labels"]["nsubj"]
    cells = [f"{100 * row[key]:.2f}" for key in ("precision", "recall", "f1")]
    cells += [str(row[key]) for key in ("support", "predicted", "correct")]
    assert f"| nsubj | {' | '.join(cells)} |" in text
    counts = entry["categories"]["textcat"]["confusion"]["counts"]
    assert f"| a\\|b | {' | '.join(map(str, counts[0]))} |" in text
    for table in text.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) <= 1
    assert "nan" not in text and "None" not in text


def test_plots_of_odd_labels(tmp_path, recwarn):
    pytest.importorskip("matplotlib")
    files = draw_plots(big_report(), tmp_path / "plots")
    names = [path.name for path in files]
    kinds = ["layers", "relations", "entities", "confusion-textcat"]
    assert names == [f"{corpus}--{kind}.png" for corpus in ("a-b-c", "a-b-c-2") for kind in kinds]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)
    assert not [warning for warning in recwarn if "matplotlib" in str(warning.filename)]


def test_many_labels_fit_a_plot(tmp_path):
    pytest.importorskip("matplotlib")
    labels = tuple(f"clase {n}" for n in range(70))
    examples = categories([(labels[n % 70], labels[(n * 7) % 70]) for n in range(200)], labels)
    entry = {"layers": {}, "entities": {}, "categories": {"t": category_scores(examples, labels=labels)}}
    from matplotlib.image import imread

    files = draw_plots({"corpora": {"c": entry}}, tmp_path)
    assert [path.name for path in files] == ["c--layers.png", "c--confusion-t.png"]
    assert max(imread(files[1]).shape) < 5000


def test_agreement_of_several_categories_is_that_of_those_that_apply():
    nlp = spacy.blank("es")
    pipe = nlp.add_pipe("beto_textcat", config={"exclusive": False})
    for label in ("a", "b"):
        pipe.add_label(label)
    pipe.cfg["thresholds"] = {"b": 0.2}

    def docs(*cats):
        made = [nlp.make_doc(f"Texto {i}.") for i in range(len(cats))]
        for doc, (a, b) in zip(made, cats):
            doc.cats = {"a": a, "b": b}
        return made

    before = docs((0.7, 0.1), (0.4, 0.3))
    assert agreement_scores(nlp, before, docs((0.6, 0.15), (0.1, 0.9))) == {"Categories (macro F1)": 100.0}
    found = agreement_scores(nlp, before, docs((0.4, 0.1), (0.1, 0.9)))
    assert found == {"Categories (macro F1)": 50.0}
    assert before[0].cats == {"a": 0.7, "b": 0.1}
