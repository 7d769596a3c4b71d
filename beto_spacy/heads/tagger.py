"""The model of spaCy's tagger and morphologizer, whose scores are a matrix product that torch computes sooner.

thinc multiplies matrices on one core, with BLIS; here the scores of a morphologizer cost as much as all of the parser.
In training and on a GPU everything is spaCy's.
"""

from typing import Any, Callable, List, Optional, Tuple

import numpy
import torch
from spacy.ml.models.tagger import build_tagger_model
from spacy.tokens import Doc
from thinc.api import Model, chain, with_array
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
    model: Model[List[Doc], List[Floats2d]] = chain(tok2vec, with_array(_quicken(softmax)))
    model.set_ref("tok2vec", tok2vec)
    model.set_ref("softmax", softmax)
    model.set_ref("output_layer", softmax)
    return model


def _quicken(softmax: Model[Floats2d, Floats2d]) -> Model[Floats2d, Floats2d]:
    return Model("quick-softmax", _forward, init=_init, layers=[softmax], dims={"nI": None, "nO": None})


def _init(model: Model, X: Any = None, Y: Any = None) -> None:
    softmax = model.layers[0]
    softmax.initialize(X=X, Y=Y)
    for dim in ("nI", "nO"):
        model.set_dim(dim, softmax.get_dim(dim), force=True)


def _forward(model: Model[Floats2d, Floats2d], X: Floats2d, is_train: bool) -> Tuple[Floats2d, Callable]:
    softmax = model.layers[0]
    if is_train or softmax.attrs["softmax_normalize"] or not isinstance(X, numpy.ndarray):
        return softmax(X, is_train)
    weight, bias = (torch.from_numpy(softmax.get_param(name)) for name in ("W", "b"))
    with torch.inference_mode():
        return torch.nn.functional.linear(torch.from_numpy(X), weight, bias).numpy(), _no_backprop


def _no_backprop(gradient: Any) -> Any:
    raise NotImplementedError  # in prediction only
