"""Vectors of tokens, spans and documents: `beto_vectors`, and an error where a pipeline doesn't have it.

The vector of a token is the mean over its wordpieces' last hidden states; they are kept as ``doc.tensor``, from which
spaCy itself makes the vectors of spans and documents, the mean over their tokens. White space has zeros. Nothing is
learned: subtracting a mean or the first principal components spreads the similarities, but doesn't reliably order
pairs of sentences better.
"""

import warnings
from typing import Any, Union

import numpy
from spacy.language import Language
from spacy.tokens import Doc, Span, Token
from spacy_transformers import install_extensions
from thinc.api import reduce_mean, to_numpy

from beto_spacy.errors import EncoderError
from beto_spacy.pipeline.encoder import SharedRows

HasVector = Union[Doc, Span, Token]
# A document that is written to bytes loses the hooks below, of which spaCy warns; what is read needs none of them.
warnings.filterwarnings("ignore", message=r"\[W109\]")


@Language.factory("beto_vectors", requires=["doc._.trf_data"], assigns=["doc.tensor"])
def make_beto_vectors(nlp: Language, name: str) -> "BetoVectors":
    """Build what gives documents, spans and tokens their vectors; put it between the transformer and `doc_cleaner`."""
    install_extensions()
    return BetoVectors(name)


class BetoVectors:
    """Keeps a vector for each token of a document as ``doc.tensor``. *Shape:* (n_tokens, width)

    It takes four bytes a token and number, in the memory of the CPU, for as long as the document is there.

    name: The component's name in the pipeline.
    """

    def __init__(self, name: str = "vectors"):
        self.name = name
        self._pooling = reduce_mean()

    def __call__(self, doc: Doc) -> Doc:
        """Set the vectors of a document, which a transformer has read.

        Raises EncoderError if none has, if the tokens were merged or split since, or if the pipeline has word vectors,
        which spaCy would take instead.
        """
        data = doc._.trf_data
        if data is None:
            raise EncoderError(
                "B360",
                f"The component '{self.name}' needs the features of a transformer, and there are none.",
                "Put it after the transformer and before 'doc_cleaner'.",
            )
        if doc.vocab.vectors.size:
            raise EncoderError(
                "B361",
                f"The pipeline of '{self.name}' has word vectors, which spaCy takes for the vectors of its documents.",
                "Train the pipeline without them (paths.vectors), or leave out this component.",
            )
        if len(doc) and len(data.align.lengths) != len(doc):
            raise EncoderError(
                "B362",
                f"A document has {len(doc)} tokens, and had {len(data.align.lengths)} when the transformer read it.",
                f"Put '{self.name}' before the components that merge or split tokens.",
            )
        doc.vector = doc.vector_norm = None  # spaCy keeps those that were asked for
        if len(doc):
            doc.tensor = self._token_vectors(data)
        doc.user_hooks.pop("vector", None)
        for hooks in (doc.user_hooks, doc.user_span_hooks, doc.user_token_hooks):
            hooks["similarity"] = similarity
        return doc

    def _token_vectors(self, data: Any) -> numpy.ndarray:
        shared, number = getattr(data, "shared", (None, 0))
        if shared is None:
            states = data.model_output.last_hidden_state
            shared = SharedRows(states.reshape(-1, states.shape[-1]))
            shared.add(data.align, 0)
        # A copy: the array that it's a part of has all documents that the encoder read together.
        return numpy.array(to_numpy(shared.tokens([number], self._pooling)[0]))


def similarity(one: HasVector, other: HasVector) -> float:
    """Compute the cosine of two vectors, 0 if one has only zeros.

    spaCy's own also says 1 of the same word in two sentences, and warns of vectors that depend on the sentence.

    Raises EncoderError for vectors of two encoders that differ in width.
    """
    left, right = one.vector, other.vector
    norms = float(numpy.linalg.norm(left) * numpy.linalg.norm(right))
    if not norms:
        return 0.0
    if left.shape != right.shape:
        raise EncoderError(
            "B363",
            f"A vector of {len(left)} numbers can't be compared with one of {len(right)}.",
            "Annotate both with the same pipeline.",
        )
    return float(left @ right) / norms


def refuse_vectors(doc: Doc) -> None:
    """Have a document say that it has no vector and no similarity, until a component gives it some.

    Vectors of spans and tokens stay what they are in spaCy, arrays without numbers: `Span.as_doc` asks for them.
    """
    doc.user_hooks["vector"] = _refuse_vector
    for hooks in (doc.user_hooks, doc.user_span_hooks, doc.user_token_hooks):
        hooks["similarity"] = _refuse_similarity


def _refuse_vector(doc: Doc) -> Any:
    _check_vectors(doc)
    return doc.vector


def _refuse_similarity(one: HasVector, other: Any) -> float:
    _check_vectors(one)
    return one.similarity(other)


def _check_vectors(one: HasVector) -> None:
    """Raise EncoderError for a document without vectors; with those of another component, leave it to spaCy."""
    doc = one if isinstance(one, Doc) else one.doc
    if not doc.vocab.vectors.size and (doc.tensor is None or not doc.tensor.size):
        raise EncoderError(
            "B364",
            "The document has no vectors: no component of its pipeline makes any.",
            'Add one with nlp.add_pipe("beto_vectors", after="transformer") and annotate the text again.',
        )
    for hooks in (doc.user_hooks, doc.user_span_hooks, doc.user_token_hooks):
        for name, hook in list(hooks.items()):
            if hook in (_refuse_vector, _refuse_similarity):
                del hooks[name]
