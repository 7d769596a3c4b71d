"""Vectors: those of spaCy's objects against the encoder's features, what keeps them, and the error without them."""

import pickle
import subprocess
import sys
import warnings

import numpy
import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from beto_spacy.errors import EncoderError
from beto_spacy.pipeline.vectors import similarity

TEXTS = [
    "El presidente viajó ayer a Montevideo con tres ministros.",
    "¿Vos tenés el pasaje?\n\nLo  dejaste en la estación.",
    "",
    "Los niños jugaban al fútbol en la plaza, y otro niño en el río.",
    "\n",
]


def make_nlp(encoder, *pipes):
    nlp = spacy.blank("es")
    model = {"@architectures": "beto_spacy.Encoder.v1", "name": str(encoder), "window": 16}
    nlp.add_pipe("beto_transformer", name="transformer", config={"model": model})
    for pipe in pipes:
        nlp.add_pipe(pipe)
    nlp.initialize()
    return nlp


@pytest.fixture(scope="module")
def nlp(encoders):
    return make_nlp(encoders["bert"], "beto_vectors")


@pytest.fixture(scope="module")
def without(encoders):
    return make_nlp(encoders["bert"])


def token_vectors(doc):
    """The mean of each token's wordpieces, one by one."""
    data = doc._.trf_data
    rows = data.model_output.last_hidden_state[0]
    means, start = [], 0
    for n in data.align.lengths.tolist():
        pieces = [rows[int(i)] for i in data.align.dataXd[start : start + n].reshape(-1)]
        means.append(sum(pieces) / n if n else numpy.zeros(rows.shape[1]))
        start += n
    return numpy.array(means)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_vectors_are_means_of_the_features(encoders, family):
    nlp = make_nlp(encoders[family], "beto_vectors")
    for doc in nlp.pipe(TEXTS):
        if not len(doc):
            continue
        expected = token_vectors(doc)
        numpy.testing.assert_allclose(doc.tensor, expected, atol=1e-5)
        numpy.testing.assert_allclose(doc.vector, expected.mean(axis=0), atol=1e-5)
        numpy.testing.assert_allclose(doc[1:4].vector, expected[1:4].mean(axis=0), atol=1e-5) if len(doc) > 4 else None
        numpy.testing.assert_allclose(doc[0].vector, expected[0], atol=1e-5)
        assert doc.has_vector and doc[0].has_vector and doc[:1].has_vector
        assert not any(token.vector.any() for token in doc if token.is_space)
        assert doc.tensor.base is None  # it doesn't keep the other documents alive


def test_similarity_is_a_cosine_without_warnings(nlp):
    one, other = nlp(TEXTS[0]), nlp(TEXTS[3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = [(one, other), (one[1:3], other[2:6]), (one[1], other[1]), (one, other[2]), (one[:2], other)]
        for a, b in pairs:
            left, right = a.vector.astype("f8"), b.vector.astype("f8")
            expected = left @ right / (left @ left) ** 0.5 / (right @ right) ** 0.5
            assert a.similarity(b) == pytest.approx(expected, abs=1e-5) and abs(expected) < 1
        assert one.similarity(nlp(TEXTS[0])) == pytest.approx(1)
        assert one.similarity(nlp("")) == 0 and nlp("\n").similarity(one) == 0


def test_the_same_word_in_two_places_has_two_vectors(nlp):
    doc = nlp("la casa y la plaza")
    assert doc[0].text == doc[3].text and doc[0].similarity(doc[3]) < 0.9999


def test_the_batch_changes_nothing(nlp):
    for text, doc in zip(TEXTS, nlp.pipe(TEXTS, batch_size=2)):
        numpy.testing.assert_allclose(doc.vector, nlp(text).vector, atol=1e-5)


def test_an_empty_text_has_no_vector(nlp):
    doc = nlp("")
    assert not doc.has_vector and not doc.vector.any()


def test_annotating_again_renews_the_vector(nlp):
    doc = nlp(TEXTS[0])
    before = doc.vector.copy(), doc.vector_norm
    doc.tensor = numpy.zeros_like(doc.tensor)
    doc = nlp.get_pipe("beto_vectors")(doc)
    numpy.testing.assert_array_equal(doc.vector, before[0])
    assert doc.vector_norm == before[1]


def test_vectors_outlive_the_features_and_travel(encoders):
    nlp = make_nlp(encoders["bert"], "beto_vectors", "beto_doc_cleaner")
    doc, other = nlp(TEXTS[0]), nlp(TEXTS[3])
    assert doc._.trf_data is None and doc.vector.any()
    with pytest.warns(UserWarning, match="W109"):  # similarity is spaCy's own in what is read
        loaded = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    for again in (loaded, pickle.loads(pickle.dumps(doc)), doc.copy()):
        numpy.testing.assert_array_equal(again.vector, doc.vector)
        assert similarity(again, other) == pytest.approx(doc.similarity(other), abs=1e-6)
    with pytest.warns(UserWarning, match="W007"):
        assert loaded.similarity(other) == pytest.approx(doc.similarity(other), abs=1e-6)
    numpy.testing.assert_array_equal(doc[2:5].as_doc().vector, doc.tensor[2:5].mean(axis=0))


def test_documents_become_bytes_without_warnings():
    script = (
        "import spacy\n"
        "from beto_spacy.pipeline.vectors import refuse_vectors\n"
        "doc = spacy.blank('es')('Lima')\n"
        "refuse_vectors(doc)\n"
        "doc.to_bytes()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "W109" not in done.stderr


def test_saved_and_loaded(nlp, tmp_path):
    nlp.to_disk(tmp_path / "n")
    again = spacy.load(tmp_path / "n")
    numpy.testing.assert_allclose(again(TEXTS[0]).vector, nlp(TEXTS[0]).vector, atol=1e-6)


def test_several_processes_give_vectors(nlp):
    docs = list(nlp.pipe(TEXTS[:2], n_process=2, batch_size=1))
    numpy.testing.assert_allclose(docs[0].vector, nlp(TEXTS[0]).vector, atol=1e-5)


def test_a_pipeline_without_vectors_says_so(without):
    doc, other = without(TEXTS[0]), without(TEXTS[3])
    for ask in (
        lambda: doc.vector,
        lambda: doc.similarity(other),
        lambda: doc[1:3].similarity(other),
        lambda: doc[1].similarity(other[1]),
        lambda: doc.vector_norm,
    ):
        with pytest.raises(EncoderError, match="B364.*beto_vectors"):
            ask()
    assert not doc.has_vector
    assert doc[1:3].vector.size == doc[1].vector.size == 0 and doc[1:3].as_doc()[1].text == doc[2].text


def test_a_tensor_of_another_component_counts(without):
    doc = without(TEXTS[0])
    doc.tensor = numpy.ones((len(doc), 3), dtype="f")
    assert doc[1].vector.tolist() == doc.vector.tolist() == [1.0, 1.0, 1.0]
    with pytest.warns(UserWarning, match="W007"):  # spaCy's own similarity
        assert doc.similarity(doc[2:4]) == pytest.approx(1)


def test_word_vectors_count_and_exclude_ours(encoders):
    nlp = make_nlp(encoders["bert"])
    nlp.vocab.set_vector("presidente", numpy.array([1.0, 2.0], dtype="f"))
    doc = nlp(TEXTS[0])
    assert doc[1].vector.tolist() == [1.0, 2.0] and doc[1].similarity(doc[1]) == 1
    nlp.add_pipe("beto_vectors")
    with pytest.raises(EncoderError, match="B361"):
        nlp(TEXTS[0])


def test_vectors_need_features_of_these_tokens(encoders):
    nlp = make_nlp(encoders["bert"], "beto_doc_cleaner", "beto_vectors")
    with pytest.raises(EncoderError, match="B360.*doc_cleaner"):
        nlp(TEXTS[0])
    nlp = make_nlp(encoders["bert"])
    doc = nlp(TEXTS[0])
    with doc.retokenize() as merged:
        merged.merge(doc[0:2])
    nlp.add_pipe("beto_vectors")
    with pytest.raises(EncoderError, match="B362"):
        nlp.get_pipe("beto_vectors")(doc)


def test_widths_must_agree(nlp):
    doc, other = nlp(TEXTS[0]), nlp(TEXTS[3])
    other.vector = numpy.ones(3, dtype="f")
    with pytest.raises(EncoderError, match="B363"):
        similarity(doc, other)


def test_a_pipeline_with_vectors_trains(encoders):
    nlp = spacy.blank("es")
    model = {"@architectures": "beto_spacy.Encoder.v1", "name": encoders["bert"]}
    listener = {"@architectures": "beto_spacy.Listener.v1", "pooling": {"@layers": "reduce_mean.v1"}}
    nlp.add_pipe("beto_transformer", name="transformer", config={"model": model})
    nlp.add_pipe("tagger", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}})
    nlp.add_pipe("beto_vectors")
    gold = Doc(nlp.vocab, words=["El", "niño", "juega"], tags=["D", "N", "V"])
    optimizer = nlp.initialize(lambda: [Example(nlp.make_doc(gold.text), gold)])
    losses = nlp.update([Example(nlp.make_doc(gold.text), gold)], sgd=optimizer)
    assert losses["tagger"] > 0 and nlp(gold.text).vector.any()
