"""The model of spaCy's tagger and morphologizer, whose scores are a matrix product that torch computes sooner.

thinc multiplies matrices on one core, with BLIS; here the scores of a morphologizer cost as much as all of the parser.
``beto_spacy.Tagger.v1`` is spaCy's in all else. ``beto_spacy.Tagger.v2`` learns from the mean over the annotated tokens
of a batch, as our heads do, at a rate of its own and with dropout.
"""

from typing import Any, Callable, List, Optional, Tuple

import numpy
import torch
from spacy.ml.models.tagger import build_tagger_model
from spacy.tokens import Doc
from thinc.api import Dropout, Model, chain, with_array
from thinc.types import Floats2d


def make_tagger(
    tok2vec: Model[List[Doc], List[Floats2d]], nO: Optional[int] = None, normalize: bool = False
) -> Model[List[Doc], List[Floats2d]]:
    """Build ``beto_spacy.Tagger.v1``: what ``spacy.Tagger.v2`` is, with the same weights, and quicker on a CPU.

    tok2vec: The token vectors, such as ``beto_spacy.Listener.v1``.
    nO: The number of tags; inferred from the data if None.
    normalize: Whether scores are probabilities also in prediction.
    """
    softmax = build_tagger_model(tok2vec, nO, normalize).get_ref("softmax")
    return _with_refs(chain(tok2vec, with_array(_quicken(softmax))), tok2vec, softmax)


def make_tagger_v2(
    tok2vec: Model[List[Doc], List[Floats2d]],
    nO: Optional[int] = None,
    normalize: bool = False,
    learn_rate_factor: float = 1.0,
    dropout: float = 0.1,
) -> Model[List[Doc], List[Floats2d]]:
    """Build ``beto_spacy.Tagger.v2``: a softmax over token vectors that is trained like our other heads.

    Args:
        tok2vec: The token vectors, such as ``beto_spacy.Listener.v1``.
        nO: The number of tags; inferred from the data if None.
        normalize: Whether scores are probabilities also in prediction.
        learn_rate_factor: Factor on the optimizer's rate for the weights of the softmax. The token vectors are scaled
            by it before the weights are applied, which has the same effect under Adam and needs no other optimizer.
        dropout: Dropout of the token vectors in training.

    Returns:
        A model from documents to scores. *Shape:* (n_tokens, n_tags) each
    """
    softmax = build_tagger_model(tok2vec, nO, normalize).get_ref("softmax")
    layer = _quicken(softmax, factor=learn_rate_factor, mean=True)
    return _with_refs(chain(tok2vec, with_array(chain(Dropout(dropout), layer))), tok2vec, softmax)


def _with_refs(model: Model, tok2vec: Model, softmax: Model) -> Model:
    model.set_ref("tok2vec", tok2vec)
    model.set_ref("softmax", softmax)
    model.set_ref("output_layer", softmax)
    return model


def takes_mean(model: Model) -> bool:
    """Say whether a model of tags divides the gradient of a sum over tokens by their number itself."""
    return any(node.name == _LAYER and node.attrs["mean"] for node in model.walk())


_LAYER = "quick-softmax"


def _quicken(
    softmax: Model[Floats2d, Floats2d], *, factor: float = 1.0, mean: bool = False
) -> Model[Floats2d, Floats2d]:
    attrs = {"factor": factor, "mean": mean}
    return Model(_LAYER, _forward, init=_init, layers=[softmax], dims={"nI": None, "nO": None}, attrs=attrs)


def _init(model: Model, X: Any = None, Y: Any = None) -> None:
    softmax = model.layers[0]
    softmax.initialize(X=X, Y=Y)
    for dim in ("nI", "nO"):
        model.set_dim(dim, softmax.get_dim(dim), force=True)


def _forward(model: Model[Floats2d, Floats2d], X: Floats2d, is_train: bool) -> Tuple[Floats2d, Callable]:
    softmax, factor = model.layers[0], model.attrs["factor"]
    if is_train or softmax.attrs["softmax_normalize"] or not isinstance(X, numpy.ndarray):
        scores, backprop = softmax(X if factor == 1 else X * factor, is_train)

        def backprop_scaled(gradient: Floats2d) -> Floats2d:
            gradient = backprop(_mean(gradient) if model.attrs["mean"] else gradient)
            return gradient if factor == 1 else gradient * factor

        return scores, backprop_scaled
    weight, bias = (torch.from_numpy(softmax.get_param(name)) for name in ("W", "b"))
    with torch.inference_mode():
        return torch.nn.functional.linear(torch.from_numpy(X), weight * factor, bias).numpy(), _no_backprop


def _mean(gradient: Floats2d) -> Floats2d:
    """Make the gradient of a sum over annotated tokens that of their mean; a token without annotation has none."""
    return gradient / max(1, int((gradient != 0).any(axis=1).sum()))


def _no_backprop(gradient: Any) -> Any:
    raise NotImplementedError  # in prediction only
