"""The conditional random field as a thinc model: documents in, the potentials of their tags out."""

from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import torch
from spacy.tokens import Doc
from thinc.api import ArgsKwargs, Model, chain, torch2xp, xp2torch
from thinc.types import Floats2d

from ..torch_shim import TorchShim


class DocPotentials(NamedTuple):
    """The potentials of some documents, or their gradients; torch tensors, on the device of the model.

    emissions: Of each tag at each token, all documents in a row. *Shape:* (n_tokens, n_tags)
    starts: *Shape:* (n_tags,)
    transitions: *Shape:* (n_tags, n_tags)
    lengths: Tokens of each document.
    """

    emissions: torch.Tensor
    starts: torch.Tensor
    transitions: torch.Tensor
    lengths: List[int]


class TagPotentials(torch.nn.Module):
    """A linear layer from token vectors to tags, and the potentials of starting with a tag and of one after another.

    width: Of the token vectors.
    n_tags: How many tags there are.
    dropout: Of the token vectors, in training.
    """

    def __init__(self, width: int, n_tags: int, dropout: float):
        super().__init__()
        self.dropout = torch.nn.Dropout(dropout)
        self.linear = torch.nn.Linear(width, n_tags)
        self.starts = torch.nn.Parameter(torch.zeros(n_tags))
        self.transitions = torch.nn.Parameter(torch.zeros(n_tags, n_tags))
        torch.nn.init.normal_(self.linear.weight, std=0.02)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, vectors: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """vectors: *Shape:* (n_tokens, width). Returns emissions, starts and transitions."""
        return self.linear(self.dropout(vectors)), self.starts, self.transitions


def make_crf(
    tok2vec: Model[List[Doc], List[Floats2d]], dropout: float = 0.1, learn_rate_factor: float = 1.0
) -> Model[List[Doc], DocPotentials]:
    """Build ``beto_spacy.CRF.v1``: the potentials of a conditional random field over entity tags.

    tok2vec: The token vectors, such as ``beto_spacy.Listener.v1``.
    dropout: Of the token vectors, in training.
    learn_rate_factor: The optimizer's rate is multiplied by it for this head.
    """
    layer: Model[List[Floats2d], DocPotentials] = Model(
        "beto-crf",
        _forward,
        init=_init,
        dims={"nI": None, "nO": None},
        attrs={"dropout": dropout},
        shims=[TorchShim(learn_rate_factor=learn_rate_factor)],
    )
    model = chain(tok2vec, layer)
    model.set_ref("tok2vec", tok2vec)
    model.set_ref("output_layer", layer)
    return model


def build_module(layer: Model, width: int, n_tags: int) -> None:
    """Give the layer its torch module, of the sizes that are known now."""
    layer.set_dim("nI", width, force=True)
    layer.set_dim("nO", n_tags, force=True)
    layer.shims[0].set_module(TagPotentials(width, n_tags, layer.attrs["dropout"]))


def _init(model: Model, X: Optional[List[Floats2d]] = None, Y: Any = None) -> None:
    if X is not None and model.has_dim("nO"):
        build_module(model, X[0].shape[1], model.get_dim("nO"))


def _forward(
    model: Model[List[Floats2d], DocPotentials], X: List[Floats2d], is_train: bool
) -> Tuple[DocPotentials, Callable[[DocPotentials], List[Floats2d]]]:
    shim = model.shims[0]
    lengths = [len(x) for x in X]
    vectors = xp2torch(model.ops.flatten(X), requires_grad=is_train)
    outputs, backprop_torch = shim(ArgsKwargs((vectors,), {}), is_train)

    def backprop(gradients: DocPotentials) -> List[Floats2d]:
        tensors = (gradients.emissions, gradients.starts, gradients.transitions)
        d_inputs = backprop_torch(ArgsKwargs((outputs,), {"grad_tensors": tensors}))
        return model.ops.unflatten(torch2xp(d_inputs.args[0]), lengths)

    return DocPotentials(*(tensor.detach() for tensor in outputs), lengths), backprop
