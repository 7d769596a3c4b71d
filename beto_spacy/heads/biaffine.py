"""Deep biaffine attention for dependencies (Dozat and Manning 2017), in torch.

Each word is projected four times: as the dependent and as the head of an arc, and the same for its label. Arcs are
scored for all pairs of a sentence, labels for one head of each word only, so that the memory stays bounded. Pure torch:
spaCy is in `parser.py`, trees are in `mst.py`.
"""

from typing import NamedTuple, Tuple

import torch


class Projections(NamedTuple):
    """The projections of all words in a row, and the weights that pairs are scored with.

    arc_dependent, arc_head: *Shape:* (n_words, arc_width)
    label_dependent, label_head: *Shape:* (n_words, label_width)
    arc_root, label_root: The root of it all as a head. *Shape:* (arc_width,), (label_width,)
    arc_weight: *Shape:* (arc_width + 1, arc_width)
    label_weight: *Shape:* (n_labels, label_width + 1, label_width + 1)
    """

    arc_dependent: torch.Tensor
    arc_head: torch.Tensor
    label_dependent: torch.Tensor
    label_head: torch.Tensor
    arc_root: torch.Tensor
    label_root: torch.Tensor
    arc_weight: torch.Tensor
    label_weight: torch.Tensor


class BiaffineProjections(torch.nn.Module):
    """Makes `Projections` of word vectors.

    width: Of the word vectors.
    n_labels: How many labels arcs have.
    arc_width, label_width: Of the projections.
    dropout: Of the vectors and of the projections, in training.
    """

    def __init__(self, width: int, n_labels: int, *, arc_width: int, label_width: int, dropout: float):
        super().__init__()
        self.dropout = torch.nn.Dropout(dropout)
        self.arc_dependent = torch.nn.Linear(width, arc_width)
        self.arc_head = torch.nn.Linear(width, arc_width)
        self.label_dependent = torch.nn.Linear(width, label_width)
        self.label_head = torch.nn.Linear(width, label_width)
        self.arc_root = torch.nn.Parameter(torch.zeros(arc_width))
        self.label_root = torch.nn.Parameter(torch.zeros(label_width))
        self.arc_weight = torch.nn.Parameter(torch.zeros(arc_width + 1, arc_width))
        self.label_weight = torch.nn.Parameter(torch.zeros(n_labels, label_width + 1, label_width + 1))
        for linear in (self.arc_dependent, self.arc_head, self.label_dependent, self.label_head):
            torch.nn.init.xavier_uniform_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
        torch.nn.init.normal_(self.arc_root, std=0.1)
        torch.nn.init.normal_(self.label_root, std=0.1)

    def forward(self, vectors: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """vectors: *Shape:* (n_words, width)"""
        vectors = self.dropout(vectors)
        layers = (self.arc_dependent, self.arc_head, self.label_dependent, self.label_head)
        projected = (self.dropout(torch.nn.functional.gelu(layer(vectors))) for layer in layers)
        return Projections(*projected, self.arc_root, self.label_root, self.arc_weight, self.label_weight)


def _with_one(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, tensor.new_ones((*tensor.shape[:-1], 1))], dim=-1)


def _with_root(states: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    return torch.cat([root.expand(len(states), 1, -1), states], dim=1)


def score_arcs(projections: Projections, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Score all arcs of some sentences.

    words: The words of each sentence, by their places in the projections, padded. *Shape:* (n_sentences, length)
    lengths: *Shape:* (n_sentences,)
    *Shape of the result:* (n_sentences, length, 1 + length): [dependent, head]; the first head is the root. Arcs to
    words beyond the end, and of words to themselves, have minus infinity.
    """
    dependents = _with_one(projections.arc_dependent[words])
    heads = _with_root(projections.arc_head[words], projections.arc_root)
    scores = dependents @ projections.arc_weight @ heads.transpose(1, 2)
    length = words.shape[1]
    places = torch.arange(1 + length, device=words.device)
    never = places[None, None, :] > lengths[:, None, None]
    itself = places[None, :] == places[1:, None]
    return scores.masked_fill(never | itself[None], float("-inf"))


def score_labels(projections: Projections, words: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    """Score the labels of one arc of each word.

    words: As in `score_arcs`.
    heads: The head of each word, from 1, or 0 for the root. *Shape:* (n_sentences, length)
    *Shape of the result:* (n_sentences, length, n_labels)
    """
    dependents = _with_one(projections.label_dependent[words])
    states = _with_one(_with_root(projections.label_head[words], projections.label_root))
    chosen = torch.gather(states, 1, heads[:, :, None].expand(-1, -1, states.shape[2]))
    return torch.einsum("bti,lij,btj->btl", dependents, projections.label_weight, chosen)


def tree_loss(arcs: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    """How improbable the annotated heads are, each word by itself; the sum over words.

    arcs: As `score_arcs` gives them.
    heads: From 1, 0 for the root, -1 where nothing is annotated. *Shape:* (n_sentences, length)
    """
    return torch.nn.functional.cross_entropy(
        arcs.reshape(-1, arcs.shape[-1]), heads.reshape(-1), ignore_index=-1, reduction="sum"
    )
