"""The text categorizer: its loss, pooling, thresholds and scores, and what missing annotation means."""

import pickle

import numpy
import pytest
import spacy
import torch
from spacy.scorer import Scorer
from spacy.training import Example
from thinc.api import Adam

from beto_spacy.errors import CorpusError
from beto_spacy.heads.textcat.component import (
    POOLINGS,
    BetoTextCategorizer,
    PooledScores,
    _best_threshold,
    make_textcat_scorer,
)
from beto_spacy.pipeline.layer import Outputs

TEXTS = {
    "Qué película tan buena": "P",
    "Me encanta esta ciudad": "P",
    "Gracias por todo": "P",
    "Qué servicio tan malo": "N",
    "Odio esperar tanto": "N",
    "Llegó frío y tarde": "N",
}
CNN = {
    "@architectures": "spacy.HashEmbedCNN.v2",
    "pretrained_vectors": None,
    "width": 32,
    "depth": 1,
    "embed_size": 500,
    "window_size": 1,
    "maxout_pieces": 2,
    "subword_features": True,
}


def cats(label, labels="NP"):
    return {other: float(other == label) for other in labels}


def example(nlp, text, gold):
    doc = nlp.make_doc(text)
    doc.cats = gold
    return Example(nlp.make_doc(text), doc)


def annotated(nlp):
    return [example(nlp, text, cats(label)) for text, label in TEXTS.items()]


def unannotated(nlp):
    # None at all, all negative, and only another component's.
    golds = [{}, {"N": 0.0, "P": 0.0}, {"deporte": 1.0, "salud": 0.0}]
    return [example(nlp, "Un texto cualquiera", gold) for gold in golds]


def build(examples=annotated, labels=("N", "P"), pooling="mean", dropout=0.0, initialize=(), **settings):
    nlp = spacy.blank("es")
    model = {"@architectures": "beto_spacy.TextCat.v1", "tok2vec": CNN, "pooling": pooling, "dropout": dropout}
    pipe = nlp.add_pipe("beto_textcat", config={"model": model, **settings})
    pipe.initialize(lambda: examples(nlp), nlp=nlp, labels=labels, **dict(initialize))
    return nlp, pipe


def train(nlp, examples, steps=30):
    sgd = Adam(0.01, L2=0.0)
    for _ in range(steps):
        losses = nlp.update(examples, sgd=sgd, drop=0.0)
    return losses


def parameters(pipe):
    nodes = [(node, name) for node in pipe.model.walk() for name in node.param_names if node.has_param(name)]
    module = pipe.model.get_ref("output_layer").shims[0]._model
    return numpy.concatenate(
        [node.get_param(name).ravel() for node, name in nodes]
        + [p.detach().numpy().ravel() for p in module.parameters()]
    )


def loss_of(pipe, examples, scores):
    scores = torch.tensor(scores)
    return pipe.get_loss(examples, Outputs((scores,), [3] * len(scores)))


# ------------------------------------------------------------------------------------------------------ pooling


def test_pooling_by_hand():
    # rows of sevens are white space; the last document has no words
    vectors = torch.tensor([[7.0, 7.0], [1.0, 0.0], [7.0, 7.0], [3.0, 2.0], [5.0, 5.0], [7.0, 7.0]])
    is_word = torch.tensor([False, True, False, True, True, False])
    lengths = torch.tensor([4, 0, 1, 1])
    expected = {
        "first": [[1.0, 0.0], [0.0, 0.0], [5.0, 5.0], [0.0, 0.0]],
        "mean": [[2.0, 1.0], [0.0, 0.0], [5.0, 5.0], [0.0, 0.0]],
    }
    for pooling, rows in expected.items():
        assert PooledScores(2, 3, pooling=pooling, dropout=0.0)._pool(vectors, lengths, is_word).tolist() == rows
    module = PooledScores(2, 3, pooling="attention", dropout=0.0)
    with torch.no_grad():
        module.attention.weight.copy_(torch.tensor([[0.0, 0.5]]))
    pooled = module._pool(vectors, lengths, is_word)
    share = 1 / (1 + numpy.e)  # energies 0 and 1, whatever the bias
    assert pooled.tolist() == [
        pytest.approx([share + 3 * (1 - share), 2 * (1 - share)]),
        [0.0, 0.0],
        pytest.approx([5.0, 5.0]),
        [0.0, 0.0],
    ]


def test_attention_stands_energies_of_any_size():
    module = PooledScores(1, 1, pooling="attention", dropout=0.0)
    with torch.no_grad():
        module.attention.weight.fill_(1e4)
    vectors = torch.tensor([[1.0], [2.0], [-5.0], [3.0]], requires_grad=True)
    (scores,) = module(vectors, torch.tensor([2, 1, 1]), torch.tensor([True, True, True, False]))
    scores.sum().backward()
    assert torch.isfinite(scores).all() and torch.isfinite(vectors.grad).all()


# --------------------------------------------------------------------------------------------------------- loss


def test_loss_and_gradient_by_hand():
    nlp, pipe = build()
    scores = numpy.log([[0.4, 0.6], [0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]).astype("f")
    examples = [annotated(nlp)[0], *unannotated(nlp)]
    loss, gradient = loss_of(pipe, examples, scores)
    assert loss == pytest.approx(-numpy.log(0.6), abs=1e-6)
    assert gradient.tensors[0].numpy() == pytest.approx(numpy.asarray([[0.4, -0.4], [0, 0], [0, 0], [0, 0]]), abs=1e-6)
    loss, gradient = loss_of(pipe, examples[1:], scores[1:])
    assert loss == 0.0 and not gradient.tensors[0].any()


def test_multilabel_loss_by_hand():
    nlp, pipe = build(exclusive=False)
    examples = [example(nlp, "a", {"P": 1.0}), example(nlp, "a", {"N": 0.0, "P": 0.0}), example(nlp, "a", {"x": 1.0})]
    loss, gradient = loss_of(pipe, examples, numpy.zeros((3, 2), dtype="f"))
    assert loss == pytest.approx(3 * numpy.log(2)), "what isn't stated is missing"
    # The gradient is that of the mean over the two documents that state something.
    assert gradient.tensors[0].tolist() == [[0.0, -0.25], [0.25, 0.25], [0.0, 0.0]]


def test_smoothing_and_weights_by_hand():
    scores = numpy.log([[0.4, 0.6]]).astype("f")
    nlp, pipe = build(label_smoothing=0.2, class_weights={"P": 3.0})
    gold = [example(nlp, "a", cats("P"))]
    # The weights stand beside each label's part of the smoothed truth.
    expected = -(0.9 * 3.0 * numpy.log(0.6) + 0.1 * 1.0 * numpy.log(0.4))
    assert loss_of(pipe, gold, scores)[0] == pytest.approx(expected, rel=1e-5)
    nlp, pipe = build(label_smoothing=0.2, class_weights={"P": 3.0}, exclusive=False)
    # P is 0.9 true, and that part weighs three times.
    expected = (0.9 * 3.0 + 0.1) * numpy.log(2) + numpy.log(2)
    assert loss_of(pipe, gold, numpy.zeros((1, 2), dtype="f"))[0] == pytest.approx(expected, rel=1e-5)


def test_balanced_weights():
    def uneven(nlp):
        return [example(nlp, "a", cats("P")) for _ in range(3)] + [example(nlp, "a", cats("N")), *unannotated(nlp)]

    _, pipe = build(uneven, class_weights="balanced")
    assert pipe.cfg["class_weights"] == pytest.approx([4 / (2 * 1), 4 / (2 * 3)])
    _, pipe = build(uneven, class_weights="balanced", exclusive=False)
    # Without exclusion the document whose labels are all negative says no to both.
    assert pipe.cfg["class_weights"] == pytest.approx([4 / 1, 2 / 3])


def test_a_label_that_is_not_stated_beside_a_positive_one_is_negative():
    nlp, pipe = build()
    _, gradient = loss_of(pipe, [example(nlp, "a", {"P": 1.0})], [[0.0, 0.0]])
    assert gradient.tensors[0].tolist() == [[0.5, -0.5]]


def test_before_it_learns_all_labels_are_as_probable():
    for exclusive in (True, False):
        nlp, pipe = build(exclusive=exclusive)
        assert pipe.predict([nlp.make_doc("Un texto"), nlp.make_doc("Otro")]).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_unannotated_documents_change_nothing():
    nlp, pipe = build()
    before = parameters(pipe)
    losses = nlp.update(unannotated(nlp), sgd=Adam(0.05, L2=0.0))
    assert losses == {"beto_textcat": 0.0}
    assert (parameters(pipe) == before).all()
    nlp.update(annotated(nlp), sgd=Adam(0.05, L2=0.0))
    assert (parameters(pipe) != before).any(), "annotated ones do"


def test_mixed_batches_learn_the_same_as_annotated_ones():
    results = []
    for extra in (False, True):
        spacy.util.fix_random_seed(0)
        nlp, pipe = build()
        train(nlp, annotated(nlp) + (unannotated(nlp) if extra else []), steps=5)
        results.append(pipe.predict([nlp.make_doc(text) for text in TEXTS]))
    assert results[0] == pytest.approx(results[1], abs=1e-4)


def test_two_labels_of_its_own_are_an_error_others_are_not():
    nlp, pipe = build()
    loss_of(pipe, [example(nlp, "a", {"P": 1.0, "deporte": 1.0})], [[0.0, 0.0]])
    for wrong in ({"P": 1.0, "N": 1.0}, {"P": 0.5}):
        with pytest.raises(CorpusError, match="B236.*'Un texto'"):
            loss_of(pipe, [example(nlp, "Un texto", wrong)], [[0.0, 0.0]])


def test_labels_are_those_given_or_those_seen():
    assert build()[1].labels == ("N", "P")
    assert build(labels=None)[1].labels == ("N", "P")
    for wrong in ([], ["P"]):
        with pytest.raises(CorpusError, match="B230"):
            build(labels=wrong)
    assert build(labels=["P"], exclusive=False)[1].labels == ("P",)
    with pytest.raises(CorpusError, match="B243"):
        build(labels=[], exclusive=False)


@pytest.mark.parametrize(
    "code, settings",
    [
        ("B232", {"pooling": "max"}),
        ("B233", {"threshold": 1.5}),
        ("B233", {"label_smoothing": 1.0}),
        ("B234", {"class_weights": "even"}),
        ("B235", {"class_weights": {"X": 1.0}}),
        ("B235", {"initialize": {"positive_label": "X"}}),
    ],
)
def test_settings_that_cannot_be(code, settings):
    with pytest.raises(CorpusError, match=code):
        build(**settings)


# --------------------------------------------------------------------------------------------------- prediction


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("exclusive", [True, False])
def test_overfit_and_reload(tmp_path, pooling, exclusive):
    spacy.util.fix_random_seed(0)
    nlp, pipe = build(pooling=pooling, exclusive=exclusive)
    train(nlp, annotated(nlp) + unannotated(nlp)[::2], steps=40)
    before = [nlp(text) for text in TEXTS]
    assert [doc._.categories for doc in before] == [[label] for label in TEXTS.values()]
    if exclusive:
        assert all(sum(doc.cats.values()) == pytest.approx(1.0) for doc in before)
    piped = list(nlp.pipe([*TEXTS, ""], batch_size=4))
    assert [doc.cats for doc in piped[:-1]] == [pytest.approx(doc.cats, abs=1e-5) for doc in before]
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert isinstance(again.get_pipe("beto_textcat"), BetoTextCategorizer)
    assert again.get_pipe("beto_textcat").labels == pipe.labels
    assert [again(text).cats for text in TEXTS] == [doc.cats for doc in before]
    same = build(pooling=pooling, exclusive=exclusive)[0].from_bytes(nlp.to_bytes())
    assert [same(text).cats for text in TEXTS] == [doc.cats for doc in before]


@pytest.mark.parametrize("empty", ["", " \n\n"])
def test_documents_without_words(empty):
    nlp, pipe = build()
    for docs in ([nlp.make_doc(empty)], [nlp.make_doc(empty), nlp.make_doc("Gracias")]):
        done = list(pipe.pipe(docs))
        assert done[0].cats == {"N": 0.0, "P": 0.0} and done[0]._.categories == []
    assert sum(done[1].cats.values()) == pytest.approx(1.0)
    assert nlp.update([example(nlp, empty, cats("P"))], sgd=Adam(0.05)) == {"beto_textcat": 0.0}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_line_breaks_change_no_category(encoders, pooling):
    nlp = spacy.blank("es")
    nlp.add_pipe("beto_transformer", config={"model": {"name": str(encoders["bert"])}})
    model = {"@architectures": "beto_spacy.TextCat.v1", "pooling": pooling, "dropout": 0.0}
    nlp.add_pipe("beto_textcat", config={"model": model})
    examples = annotated(nlp)
    nlp.initialize(lambda: examples)
    nlp.update(examples, sgd=Adam(0.01))
    texts = ["Qué película tan mala\n\n", "\n\nQué película tan\n\nmala", "Qué película tan mala"]
    *broken, plain = nlp.pipe(texts)
    assert plain.cats["N"] != pytest.approx(0.5, abs=1e-3)
    assert [doc.cats for doc in broken] == [pytest.approx(plain.cats, abs=1e-5)] * 2


def test_categorizers_side_by_side():
    nlp, pipe = build()
    doc = nlp.make_doc("Gracias por todo")
    doc.cats["deporte"] = 0.9
    doc._.categories = ["deporte", "N"]
    pipe.set_annotations([doc], numpy.asarray([[0.2, 0.8]]))
    assert doc.cats == {"deporte": 0.9, "N": 0.2, "P": 0.8}
    assert doc._.categories == ["deporte", "P"], "its own of an earlier run are replaced"


# ------------------------------------------------------------------------------------- calibration and thresholds


def test_best_threshold_by_trying_all():
    chance = numpy.random.default_rng(0)
    for _ in range(50):
        p = chance.integers(0, 12, size=20) / 12
        truth = chance.random(20) < p
        if not truth.any():
            continue

        def f(threshold, p=p, truth=truth):
            found = p >= threshold
            return 2 * (found & truth).sum() / (found.sum() + truth.sum())

        assert f(_best_threshold(p, truth)) == pytest.approx(max(f(t) for t in numpy.unique(p)))
    assert _best_threshold(numpy.asarray([0.3, 0.4]), numpy.asarray([False, False])) is None


class Fake:
    """A model that gives the first documents these scores."""

    def __init__(self, scores):
        self.scores = scores

    def predict(self, docs):
        return Outputs((self.scores[: len(docs)],), [1] * len(docs))


def test_calibration_finds_the_temperature_and_the_thresholds():
    nlp, pipe = build(exclusive=False)
    chance = numpy.random.default_rng(1)
    true = chance.normal(size=(4000, 2)) - [0.0, 2.0]
    golds = [dict(zip("NP", map(float, row))) for row in chance.random(true.shape) < 1 / (1 + numpy.exp(-true))]
    examples = [example(nlp, "a", gold) for gold in golds]
    scores = torch.from_numpy(3.0 * true)  # three times too sure
    real, pipe.model = pipe.model, Fake(scores)
    chosen = pipe.calibrate(examples)
    assert chosen["temperature"] == pytest.approx(3.0, rel=0.1)
    assert 0.1 < chosen["thresholds"]["P"] < chosen["thresholds"]["N"] < 0.5, "F1 wants more of a rare label"
    found = pipe.predict([eg.predicted for eg in examples])
    pipe.set_annotations([eg.predicted for eg in examples], found)
    for eg, row in zip(examples[:50], found):
        assert set(eg.predicted._.categories) == {k for k, p in zip("NP", row) if p >= chosen["thresholds"][k]}
    tuned = pipe.score(examples)["cats_macro_f"]
    pipe.model = real
    again = build(exclusive=False)[1].from_bytes(pipe.to_bytes())
    assert again.cfg["thresholds"] == pytest.approx(chosen["thresholds"])
    assert again.score(examples)["cats_macro_f"] == tuned
    pipe.cfg["thresholds"] = {}
    assert pipe.score(examples)["cats_macro_f"] < tuned
    with pytest.raises(CorpusError, match="B237"):
        pipe.calibrate([example(nlp, "a", {})])


def test_calibration_of_exclusive_labels():
    nlp, pipe = build()
    chance = numpy.random.default_rng(2)
    true = chance.normal(size=(4000, 2))
    probable = numpy.exp(true[:, 1]) / numpy.exp(true).sum(axis=1)
    examples = [example(nlp, "a", cats("NP"[int(yes)])) for yes in chance.random(len(true)) < probable]
    scores = torch.from_numpy(0.5 * true)
    pipe.model = Fake(scores)
    assert pipe.calibrate(examples) == {"temperature": pytest.approx(0.5, rel=0.1)}


# ------------------------------------------------------------------------------------------------------ scoring


def scored(nlp, gold, predicted):
    result = example(nlp, "a", gold)
    result.predicted.cats = predicted
    return result


@pytest.fixture
def mixed():
    """Three annotated documents, of which two are predicted right, among two that aren't annotated."""
    nlp = spacy.blank("es")
    low, high = {"N": 0.9, "P": 0.1}, {"N": 0.2, "P": 0.8}
    return [
        scored(nlp, cats("P"), high),
        scored(nlp, {}, high),
        scored(nlp, cats("N"), low),
        scored(nlp, {"deporte": 1.0}, low),
        scored(nlp, cats("N"), high),
    ]


def test_scores_by_hand(mixed):
    scores = make_textcat_scorer()(mixed, labels=["N", "P"])
    # N: one of two found, none too many. P: found, and once too often.
    assert scores["cats_f_per_type"]["N"] == {"p": 1.0, "r": 0.5, "f": pytest.approx(2 / 3)}
    assert scores["cats_f_per_type"]["P"] == {"p": 0.5, "r": 1.0, "f": pytest.approx(2 / 3)}
    assert scores["cats_score"] == scores["cats_macro_f"] == pytest.approx(2 / 3)
    assert scores["cats_micro_f"] == pytest.approx(2 / 3)
    # N: the gold scores (0.9, 0.2) against (0.2): one pair right, one a tie.
    assert scores["cats_macro_auc"] == pytest.approx(0.75)


def test_spacys_own_scorer_counts_them(mixed):
    scores = Scorer.score_cats(mixed, "cats", labels=["N", "P"], multi_label=False)
    assert scores["cats_macro_f"] != pytest.approx(2 / 3)


def test_no_gold_no_scores(mixed):
    for exclusive in (True, False):
        assert make_textcat_scorer(exclusive)([mixed[1], mixed[3]], labels=["N", "P"]) == {}
        assert make_textcat_scorer(exclusive)([], labels=["N", "P"]) == {}


def test_multilabel_scores(mixed):
    ours = make_textcat_scorer(exclusive=False)(mixed, labels=["N", "P"], threshold=0.5)
    only = [mixed[0], mixed[2], mixed[4]]
    assert ours == Scorer.score_cats(only, "cats", labels=["N", "P"], multi_label=True, threshold=0.5)
    # All negative is annotated here: the wrong prediction counts.
    wrong = [*mixed, scored(spacy.blank("es"), {"N": 0.0, "P": 0.0}, {"N": 0.9, "P": 0.9})]
    assert make_textcat_scorer(exclusive=False)(wrong, labels=["N", "P"])["cats_micro_p"] < ours["cats_micro_p"]


def test_the_component_scores_with_its_labels(mixed):
    nlp, pipe = build()
    assert pipe.score(mixed)["cats_macro_f"] == pytest.approx(2 / 3)
    assert pipe.score(mixed)["cats_f_per_type"].keys() == {"N", "P"}


def test_scores_with_thresholds_by_label(mixed):
    score = make_textcat_scorer(exclusive=False)
    common = score(mixed, labels=["N", "P"], threshold=0.5)
    assert score(mixed, labels=["N", "P"], thresholds={"N": 0.5, "P": 0.5}) == common
    low = score(mixed, labels=["N", "P"], thresholds={"N": 0.15, "P": 0.5})
    assert low["cats_f_per_type"]["N"] == {"p": pytest.approx(2 / 3), "r": 1.0, "f": pytest.approx(0.8)}
    assert low["cats_f_per_type"]["P"] == common["cats_f_per_type"]["P"]
    assert low["cats_macro_auc"] == common["cats_macro_auc"]


def test_a_pipeline_with_it_can_be_pickled():
    """Where processes are spawned, nlp.pipe(n_process=2) pickles its components."""
    nlp, _ = build()
    pipe = nlp.get_pipe("beto_textcat")
    again = pickle.loads(pickle.dumps(pipe))
    golds = annotated(nlp)
    predicted = [Example(again(nlp.make_doc(gold.text)), gold.reference) for gold in golds]
    assert [eg.predicted.cats for eg in predicted] == [nlp(gold.text).cats for gold in golds]
    assert again.score(predicted) == pipe.score(predicted) != {}
