"""The thinc glue of our heads: a torch module that reads the token vectors of documents.

A head's module turns the vectors of all tokens, in a row, into one tensor or several; what these mean is the head's own
business. Its loss is computed on them in torch, and their gradients come back the same way. Nothing leaves the device.
"""

from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy
import torch
from spacy.attrs import IS_ALPHA, IS_ASCII, IS_SPACE
from spacy.tokens import Doc
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats2d

from beto_spacy.pipeline.shim import TorchShim, to_device
from beto_spacy.spanish.emoji import is_emoji


class _Inputs(NamedTuple):
    """What a module reads: the vectors of the tokens of each document, and what else it takes."""

    vectors: List[Floats2d]
    also: Tuple[numpy.ndarray, ...]


class Outputs(NamedTuple):
    """What a module gave for some documents, or the gradients of that.

    tensors: On the device of the model, detached.
    lengths: Tokens of each document.
    """

    tensors: Tuple[torch.Tensor, ...]
    lengths: List[int]


def make_torch_layer(
    name: str,
    tok2vec: Model[List[Doc], List[Floats2d]],
    build: Callable[[int, int], torch.nn.Module],
    *,
    learn_rate_factor: float = 1.0,
    also: Optional[Callable[[Sequence[Doc]], Tuple[numpy.ndarray, ...]]] = None,
) -> Model[List[Doc], Outputs]:
    """Put a torch module on top of token vectors.

    name: Of the layer.
    tok2vec: The token vectors, such as ``beto_spacy.Listener.v1``.
    build: Makes the module, of a width of vectors and a number of classes. The module takes vectors, *shape:*
        (n_tokens, width), and gives a tuple of tensors.
    learn_rate_factor: The optimizer's rate is multiplied by it for this head.
    also: What else of the documents the module takes.
    """
    layer: Model[_Inputs, Outputs] = Model(
        name,
        _forward,
        init=_init,
        dims={"nI": None, "nO": None},
        attrs={"build": build},
        shims=[TorchShim(learn_rate_factor=learn_rate_factor)],
    )
    model: Model[List[Doc], Outputs] = Model(
        f"{name}-of-docs", _forward_docs, init=_init_docs, layers=[tok2vec, layer], attrs={"also": also}
    )
    model.set_ref("tok2vec", tok2vec)
    model.set_ref("output_layer", layer)
    return model


#: What ends a line.
LINE_BREAKS = "\n\r\v\f\x85\u2028\u2029"


def document_lengths(docs: Sequence[Doc]) -> numpy.ndarray:
    """The number of tokens of each document. *Shape:* (n_documents,)"""
    return numpy.asarray([len(doc) for doc in docs], dtype="i8")


def blank_tokens(doc: Doc) -> numpy.ndarray:
    """Which tokens are white space: these are no words, and have no vector. *Shape:* (n_tokens,), bool"""
    return doc.to_array([IS_SPACE]).reshape(-1).astype(bool)


def emoji_tokens(docs: Sequence[Doc]) -> numpy.ndarray:
    """Which tokens are emoji.

    Returns their places among the tokens of documents in a row.
    """
    found, offset = [], 0
    for doc in docs:
        others = numpy.flatnonzero(~doc.to_array([IS_ALPHA, IS_ASCII]).reshape(-1, 2).any(axis=1))
        found.extend(offset + i for i in others.tolist() if is_emoji(doc[i].text))
        offset += len(doc)
    return numpy.asarray(found, dtype="i8")


def word_tokens(docs: Sequence[Doc]) -> numpy.ndarray:
    """Which tokens of documents in a row are no white space. *Shape:* (n_tokens,), bool"""
    return ~numpy.concatenate([blank_tokens(doc) for doc in docs])


def paragraph_starts(doc: Doc, blank: numpy.ndarray) -> numpy.ndarray:
    """Which words come after an empty line.

    blank: Of `blank_tokens`.
    Returns the positions of the tokens, in order.
    """
    starts, n_breaks = [], 0
    for i in numpy.flatnonzero(blank).tolist():
        n_breaks = doc[i].text.count("\n") + (n_breaks if i and blank[i - 1] else 0)
        if n_breaks > 1 and i + 1 < len(doc) and not blank[i + 1]:
            starts.append(i + 1)
    return numpy.asarray(starts, dtype="i8")


def line_starts(doc: Doc, blank: numpy.ndarray, signs: str) -> numpy.ndarray:
    """Which words come after white space that has one of some signs, such as a line break.

    blank: Of `blank_tokens`.
    Returns the positions of the tokens, in order.
    """
    words = numpy.flatnonzero(~blank)
    breaks = [i for i in numpy.flatnonzero(blank).tolist() if any(sign in signs for sign in doc[i].text)]
    after = numpy.unique(numpy.searchsorted(words, breaks))
    return words[after[after < len(words)]]


def build_module(layer: Model, width: int, n_classes: int) -> None:
    """Give a layer its module, of the sizes that are known now."""
    layer.set_dim("nI", width, force=True)
    layer.set_dim("nO", n_classes, force=True)
    layer.shims[0].set_module(layer.attrs["build"](width, n_classes))


def _init_docs(model: Model[List[Doc], Outputs], X: Optional[List[Doc]] = None, Y: Any = None) -> None:
    tok2vec, layer = model.layers
    tok2vec.initialize(X=X)
    layer.initialize(X=None if X is None else _Inputs(tok2vec.predict(X), ()))


def _forward_docs(
    model: Model[List[Doc], Outputs], docs: List[Doc], is_train: bool
) -> Tuple[Outputs, Callable[[Outputs], Any]]:
    tok2vec, layer = model.layers
    also = model.attrs["also"]
    vectors, backprop_vectors = tok2vec(docs, is_train)
    outputs, backprop_outputs = layer(_Inputs(vectors, () if also is None else also(docs)), is_train)
    return outputs, lambda gradients: backprop_vectors(backprop_outputs(gradients))


def _init(model: Model[_Inputs, Outputs], X: Optional[_Inputs] = None, Y: Any = None) -> None:
    if X is not None and model.has_dim("nO"):
        build_module(model, X.vectors[0].shape[1], model.get_dim("nO"))


def _forward(
    model: Model[_Inputs, Outputs], X: _Inputs, is_train: bool
) -> Tuple[Outputs, Callable[[Outputs], List[Floats2d]]]:
    lengths = [len(x) for x in X.vectors]
    rows = getattr(X.vectors, "rows", None)  # token vectors that lie together already
    vectors = xp2torch(model.ops.flatten(X.vectors) if rows is None else rows, requires_grad=is_train)
    inputs = (vectors, *(to_device(array, vectors.device) for array in X.also))
    outputs, backprop_torch = model.shims[0](ArgsKwargs(inputs, {}), is_train)

    def backprop(gradients: Outputs) -> List[Floats2d]:
        kept = [(output, d) for output, d in zip(outputs, gradients.tensors) if output.requires_grad]
        tensors, d_tensors = zip(*kept)
        d_inputs = backprop_torch(ArgsKwargs((tensors,), {"grad_tensors": d_tensors}))
        return model.ops.unflatten(torch2xp(d_inputs.args[0]), lengths)

    return Outputs(tuple(tensor.detach() for tensor in outputs), lengths), backprop
