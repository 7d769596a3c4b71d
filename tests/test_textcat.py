"""The exclusive text categorizer: documents without its labels teach nothing and aren't scored."""

import pickle

import numpy
import pytest
import spacy
from spacy.pipeline.textcat import TextCategorizer
from spacy.scorer import Scorer
from spacy.training import Example
from thinc.api import Adam, Model

from beto_spacy.errors import CorpusError
from beto_spacy.heads.textcat import BetoTextCategorizer, make_beto_textcat, make_textcat_scorer

TEXTS = {
    "Qué película tan buena": "P",
    "Me encanta esta ciudad": "P",
    "Gracias por todo": "P",
    "Qué servicio tan malo": "N",
    "Odio esperar tanto": "N",
    "Llegó frío y tarde": "N",
}
BOW = {
    "@architectures": "spacy.TextCatBOW.v3",
    "exclusive_classes": True,
    "length": 262144,
    "ngram_size": 1,
    "no_output_layer": False,
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


def build(labels=("N", "P"), model=BOW):
    nlp = spacy.blank("es")
    assert make_beto_textcat  # the factory is registered by the import
    config = {"scorer": None} if model is None else {"scorer": None, "model": model}
    pipe = nlp.add_pipe("beto_textcat", config=config)
    pipe.scorer = make_textcat_scorer()
    nlp.get_pipe("beto_textcat").initialize(lambda: annotated(nlp), nlp=nlp, labels=labels)
    return nlp, pipe


def train(nlp, examples, steps=30):
    sgd = Adam(0.05, L2=0.0)
    for _ in range(steps):
        losses = nlp.update(examples, sgd=sgd, drop=0.0)
    return losses


def parameters(pipe):
    names = [(node, name) for node in pipe.model.walk() for name in node.param_names if node.has_param(name)]
    return numpy.concatenate([node.get_param(name).ravel() for node, name in names])


def test_loss_and_gradient_by_hand():
    nlp, pipe = build()
    scores = numpy.asarray([[0.4, 0.6], [0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], dtype="f")
    examples = [annotated(nlp)[0], *unannotated(nlp)]
    loss, gradient = pipe.get_loss(examples, scores)
    assert gradient == pytest.approx(numpy.asarray([[0.4, -0.4], [0, 0], [0, 0], [0, 0]]))
    assert loss == pytest.approx((0.16 + 0.16) / 2)
    loss, gradient = pipe.get_loss(examples[1:], scores[1:])
    assert loss == 0.0 and not gradient.any()


def test_a_label_that_is_not_stated_beside_a_positive_one_is_negative():
    nlp, pipe = build()
    _, gradient = pipe.get_loss([example(nlp, "a", {"P": 1.0})], numpy.asarray([[0.5, 0.5]], dtype="f"))
    assert gradient.tolist() == [[0.5, -0.5]]


def test_unannotated_documents_change_nothing():
    nlp, pipe = build()
    before = parameters(pipe)
    losses = nlp.update(unannotated(nlp), sgd=Adam(0.05, L2=0.0))
    assert losses == {"beto_textcat": 0.0}
    assert (parameters(pipe) == before).all()
    nlp.update(annotated(nlp), sgd=Adam(0.05, L2=0.0))
    assert (parameters(pipe) != before).any(), "annotated ones do"


def test_unannotated_documents_reach_the_model():
    # A shared encoder is updated when the last head that reads it is: no head may skip a batch.
    nlp, pipe = build()
    gradients = []

    def forward(model, docs, is_train):
        scores, backprop = model.layers[0](docs, is_train)
        return scores, lambda gradient: gradients.append(gradient) or backprop(gradient)

    pipe.model = Model("spy", forward, layers=[pipe.model])
    pipe.update(unannotated(nlp))
    assert len(gradients) == 1 and not gradients[0].any()


def test_mixed_batches_learn_the_same_as_annotated_ones():
    results = []
    for extra in (False, True):
        spacy.util.fix_random_seed(0)
        nlp, pipe = build()
        train(nlp, annotated(nlp) + (unannotated(nlp) if extra else []), steps=5)
        results.append([pipe.predict([nlp.make_doc(text)])[0] for text in TEXTS])
    assert numpy.asarray(results[0]) == pytest.approx(numpy.asarray(results[1]), abs=1e-5)


def test_spacys_own_learns_from_them():
    """The reason for this component: if this fails, spaCy has learned what missing is."""
    nlp, pipe = build()
    scores = numpy.asarray([[0.4, 0.6]], dtype="f")
    own = TextCategorizer(nlp.vocab, pipe.model, threshold=0.0)
    own.cfg["labels"] = ["N", "P"]
    _, gradient = own.get_loss(unannotated(nlp)[:1], scores)
    assert gradient.any()


def test_two_labels_of_its_own_are_an_error_others_are_not():
    nlp, pipe = build()
    scores = numpy.zeros((1, 2), dtype="f")
    pipe.get_loss([example(nlp, "a", {"P": 1.0, "deporte": 1.0})], scores)
    with pytest.raises(ValueError, match="E895"):
        pipe.get_loss([example(nlp, "a", {"P": 1.0, "N": 1.0})], scores)
    with pytest.raises(ValueError, match="E851"):
        pipe.get_loss([example(nlp, "a", {"P": 0.5})], scores)


def test_labels_are_those_given_or_those_seen():
    nlp, pipe = build()
    assert pipe.labels == ("N", "P")
    nlp, pipe = build(labels=None)
    assert sorted(pipe.labels) == ["N", "P"]
    nlp = spacy.blank("es")
    pipe = nlp.add_pipe("beto_textcat", config={"scorer": None, "model": BOW})
    with pytest.raises(CorpusError, match="B230"):
        pipe.initialize(lambda: [example(nlp, "a", {})], nlp=nlp)


def test_initialize_with_a_corpus_that_other_components_share():
    nlp = spacy.blank("es")
    pipe = nlp.add_pipe("beto_textcat", config={"scorer": None, "model": BOW})
    both = [example(nlp, "a", {"P": 1.0, "deporte": 1.0, "salud": 1.0})]
    pipe.initialize(lambda: both, nlp=nlp, labels=["N", "P"])
    assert pipe.labels == ("N", "P")


@pytest.mark.parametrize("model", [BOW, None], ids=["bow", "default"])
def test_overfit_and_reload(tmp_path, model):
    spacy.util.fix_random_seed(0)
    nlp, pipe = build(model=model)
    train(nlp, annotated(nlp) + unannotated(nlp), steps=40)

    def predicted(pipeline):
        return [pipeline(text).cats for text in TEXTS]

    before = predicted(nlp)
    assert [max(c, key=c.get) for c in before] == list(TEXTS.values())
    assert [doc.cats for doc in nlp.pipe(TEXTS, batch_size=4)] == [
        pytest.approx(c, abs=1e-5) for c in before
    ], "pipe equals __call__"  # fmt: skip
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert isinstance(again.get_pipe("beto_textcat"), BetoTextCategorizer)
    assert again.get_pipe("beto_textcat").labels == pipe.labels
    assert predicted(again) == before
    same = spacy.blank("es")
    same.add_pipe("beto_textcat", config={"scorer": None, **({"model": model} if model else {})})
    same.from_bytes(nlp.to_bytes())
    assert predicted(same) == before


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


def test_spacys_multilabel_categorizer_is_right_about_missing(mixed):
    """The reason why there is no multi-label categorizer of ours."""
    nlp = spacy.blank("es")
    pipe = nlp.add_pipe("textcat_multilabel", config={"model": {**BOW, "exclusive_classes": False}})
    pipe.initialize(lambda: annotated(nlp), nlp=nlp, labels=["N", "P"])
    before = parameters(pipe)
    nlp.update([example(nlp, "a", {}), example(nlp, "a", {"deporte": 1.0})], sgd=Adam(0.05, L2=0.0))
    assert (parameters(pipe) == before).all()
    only = [mixed[0], mixed[2], mixed[4]]
    assert pipe.score(mixed) == pipe.score(only)


def test_a_pipeline_with_it_can_be_pickled():
    """Where processes are spawned, nlp.pipe(n_process=2) pickles its components."""
    nlp, _ = build()
    pipe = nlp.get_pipe("beto_textcat")
    again = pickle.loads(pickle.dumps(pipe))
    golds = annotated(nlp)
    predicted = [Example(again(nlp.make_doc(gold.text)), gold.reference) for gold in golds]
    assert [eg.predicted.cats for eg in predicted] == [nlp(gold.text).cats for gold in golds]
    assert again.score(predicted) == pipe.score(predicted) != {}
