"""The tagger's model is spaCy's: the same scores in prediction, the same gradients in training."""

import numpy
import pytest
import spacy
import torch
from spacy.ml.models.tagger import build_tagger_model
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model

from beto_spacy.heads.tagger.layers import make_tagger, make_tagger_v2, takes_mean

WORDS = ["Ana", "come", "pan", "y", "bebe", "agua"]
TAGS = ["PROPN", "VERB", "NOUN", "CCONJ", "VERB", "NOUN"]


def vectors():
    """A layer that gives each word its own vector."""

    def forward(model, docs, is_train):
        rows = [numpy.asarray([[hash_of(t.text, i) for i in range(8)] for t in doc], dtype="f") for doc in docs]
        return [row.reshape(-1, 8) for row in rows], lambda gradients: docs

    return Model("vectors", forward, dims={"nO": 8})


def hash_of(word, i):
    return numpy.sin(sum(map(ord, word)) * (i + 1.0))


@pytest.fixture
def docs():
    vocab = spacy.blank("es").vocab
    return [Doc(vocab, words=WORDS), Doc(vocab, words=[]), Doc(vocab, words=["pan"])]


def both(normalize, docs):
    models = [build(vectors(), None, normalize) for build in (build_tagger_model, make_tagger)]
    labels = [numpy.eye(5, dtype="f")[[i % 5 for i in range(len(doc))]] for doc in docs]
    for model in models:
        model.initialize(X=docs, Y=labels)
    softmax = models[0].get_ref("softmax")
    rng = numpy.random.default_rng(0)
    softmax.set_param("W", rng.normal(size=(5, 8)).astype("f"))
    softmax.set_param("b", rng.normal(size=5).astype("f"))
    for name in ("W", "b"):
        models[1].get_ref("softmax").set_param(name, softmax.get_param(name).copy())
    return models


@pytest.mark.parametrize("normalize", [False, True])
def test_scores_are_spacys(docs, normalize):
    theirs, ours = (model.predict(docs) for model in both(normalize, docs))
    assert [x.shape for x in ours] == [(6, 5), (0, 5), (1, 5)]
    for a, b in zip(theirs, ours):
        numpy.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_training_is_spacys_to_the_bit(docs):
    models = both(False, docs)
    for model in models:
        scores, backprop = model.begin_update(docs)
        assert all(numpy.allclose(x.sum(axis=1), 1) for x in scores)
        backprop([x - 1 for x in scores])
    theirs, ours = (model.get_ref("softmax") for model in models)
    for name in ("W", "b"):
        assert (theirs.get_grad(name) == ours.get_grad(name)).all()


def test_v2_learns_from_the_mean_at_its_own_rate(docs):
    """Compared with torch: a softmax of scaled vectors, and the mean over the tokens that are annotated."""
    model = make_tagger_v2(vectors(), None, learn_rate_factor=3.0, dropout=0.0)
    labels = [numpy.eye(5, dtype="f")[[i % 5 for i in range(len(doc))]] for doc in docs]
    model.initialize(X=docs, Y=labels)
    softmax = model.get_ref("softmax")
    rng = numpy.random.default_rng(0)
    softmax.set_param("W", rng.normal(size=(5, 8)).astype("f"))
    scores, backprop = model.begin_update(docs)
    gradient = [x - y for x, y in zip(scores, labels)]
    gradient[0][2:4] = 0.0  # two tokens have no annotation
    backprop(gradient)
    weight = torch.from_numpy(softmax.get_param("W").copy()).requires_grad_()
    inputs = torch.from_numpy(numpy.concatenate(vectors().predict(docs)))
    logits = 3.0 * inputs @ weight.T
    truth = torch.from_numpy(numpy.concatenate(labels)).argmax(dim=1)
    truth[2:4] = -100
    torch.nn.functional.cross_entropy(logits, truth, ignore_index=-100).backward()
    # A rate three times as high on a weight that is scaled by three is what the optimizer sees.
    numpy.testing.assert_allclose(softmax.get_grad("W"), weight.grad.numpy(), rtol=1e-4, atol=1e-6)
    found = numpy.concatenate(model.predict(docs))
    numpy.testing.assert_allclose(found, logits.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert takes_mean(model) and not takes_mean(make_tagger(vectors(), None))


def test_v2_drops_vectors_in_training_only(docs):
    model = make_tagger_v2(vectors(), 5, dropout=0.5)
    model.initialize(X=docs)
    model.get_ref("softmax").set_param("W", numpy.ones((5, 8), dtype="f") * numpy.arange(5, dtype="f")[:, None])
    numpy.random.seed(0)
    first, second = (numpy.concatenate(model(docs, is_train=True)[0]) for _ in range(2))
    assert not numpy.allclose(first, second)
    assert (numpy.concatenate(model.predict(docs)) == numpy.concatenate(model.predict(docs))).all()


@pytest.mark.parametrize("architecture", ["beto_spacy.Tagger.v1", "beto_spacy.Tagger.v2"])
@pytest.mark.parametrize("factory", ["tagger", "morphologizer"])
def test_it_learns_and_is_saved(tmp_path, factory, architecture):
    tok2vec = {"@architectures": "spacy.HashEmbedCNN.v2", "width": 16, "depth": 1, "embed_size": 50,
               "window_size": 1, "maxout_pieces": 2, "subword_features": True, "pretrained_vectors": None}  # fmt: skip
    nlp = spacy.blank("es")
    nlp.add_pipe(factory, config={"model": {"@architectures": architecture, "tok2vec": tok2vec}})
    gold = Doc(nlp.vocab, words=WORDS, tags=TAGS, pos=TAGS)
    examples = [Example(nlp.make_doc(" ".join(WORDS)), gold)]
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(40):
        nlp.update(examples, sgd=optimizer)
    said = [token.tag_ or token.pos_ for token in nlp(" ".join(WORDS))]
    assert said == TAGS
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert [token.tag_ or token.pos_ for token in again(" ".join(WORDS))] == TAGS
    assert again.get_pipe(factory).model.to_bytes() == nlp.get_pipe(factory).model.to_bytes()
