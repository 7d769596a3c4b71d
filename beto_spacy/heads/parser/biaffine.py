"""Deep biaffine attention for dependencies (Dozat and Manning 2017), in torch.

Each word is projected four times: as the dependent and as the head of an arc, and the same for its label. Arcs are
scored for all pairs of a sentence, labels for one head of each word only, so that the memory stays bounded. What a word
thinks of a head also depends on how far away that is, and on which side, as in Qi et al. (2018); here by a vector for
each distance, like the relative positions of Shaw et al. (2018), and on what stands between: each word has learned how
much it parts others (verbs, commas, conjunctions do), and that is summed, like the contextual positions of Golovneva et
al. (2024). A word's label depends on its own dependents too, and on the other ones of its head: an object with a
preposition is another thing than one without, and a verb has one subject. It's scored in two ways that are summed: by a
biaffine form, and by a hidden layer. Pure torch: spaCy is in `parser.py`, trees are in `mst.py`.
"""

from typing import NamedTuple, Tuple

import torch
from torch.nn.functional import embedding

#: Where the next group of distances begins: 1, 2, 3, 4, 5-6, 7-9, 10-14, 15-22, 23 and more.
_DISTANCES = (2, 3, 4, 5, 7, 10, 15, 23)
#: Words whose labels are scored at once on the CPU, so that what is between stays in its cache.
_CHUNK = 256
#: And pairs of words, for what stands between them.
_PAIRS = 1 << 14
#: Ways in which words part others.
N_GATES = 8
#: Kinds of places that a head can have: the root, and each distance on either side.
N_PLACES = 1 + 2 * (len(_DISTANCES) + 1)


class Projections(NamedTuple):
    """The projections of all words in a row, and the weights that pairs are scored with.

    arc_dependent, arc_head: *Shape:* (n_words, arc_width)
    label_dependent, label_head, label_child: *Shape:* (n_words, label_width)
    arc_root, label_root: The root of it all as a head. *Shape:* (arc_width,), (label_width,)
    arc_weight: *Shape:* (arc_width + 1, arc_width)
    arc_places: By kind of place, see `head_places`. *Shape:* (arc_width + 1, N_PLACES)
    hidden: What a word adds to the hidden layer of its own label, of its dependents' labels, of its head's label, and
        of those of its head's other dependents, side by side. *Shape:* (n_words, 4 * hidden_width)
    gates: How much each word parts those on its sides, in each way, from 0. *Shape:* (n_words, N_GATES)
    gate_dependents, gate_heads: What a word thinks of a head behind so much, and the head of the word; first those of
        heads before the word, then after it. *Shape:* (arc_width + 1, 2 * N_GATES), (arc_width, 2 * N_GATES)
    label_weight: *Shape:* (n_labels, label_width + 1, label_width + 1)
    label_sides: By side of the head: it's the root, before the word, after it. *Shape:* (label_width + 1, 3 * n_labels)
    hidden_root: As ``hidden_head``. *Shape:* (hidden_width,)
    hidden_sides: By side of the head. *Shape:* (3, hidden_width)
    hidden_labels: *Shape:* (n_labels, hidden_width + 1)
    """

    arc_dependent: torch.Tensor
    arc_head: torch.Tensor
    label_dependent: torch.Tensor
    label_head: torch.Tensor
    label_child: torch.Tensor
    hidden: torch.Tensor
    gates: torch.Tensor
    arc_root: torch.Tensor
    label_root: torch.Tensor
    arc_weight: torch.Tensor
    arc_places: torch.Tensor
    gate_dependents: torch.Tensor
    gate_heads: torch.Tensor
    label_weight: torch.Tensor
    label_sides: torch.Tensor
    hidden_root: torch.Tensor
    hidden_sides: torch.Tensor
    hidden_labels: torch.Tensor


class BiaffineProjections(torch.nn.Module):
    """Makes `Projections` of word vectors.

    width: Of the word vectors.
    n_labels: How many labels arcs have.
    arc_width, label_width, hidden_width: Of the projections.
    dropout: Of the vectors and of the projections, in training.
    """

    def __init__(
        self, width: int, n_labels: int, *, arc_width: int, label_width: int, hidden_width: int, dropout: float
    ):
        super().__init__()
        self.dropout = torch.nn.Dropout(dropout)
        self.arc_dependent = torch.nn.Linear(width, arc_width)
        self.arc_head = torch.nn.Linear(width, arc_width)
        self.label_dependent = torch.nn.Linear(width, label_width)
        self.label_head = torch.nn.Linear(width, label_width)
        self.label_child = torch.nn.Linear(width, label_width)
        self.hidden = torch.nn.Linear(width, 4 * hidden_width)
        self.gates = torch.nn.Linear(width, N_GATES)
        self.arc_root = torch.nn.Parameter(torch.zeros(arc_width))
        self.label_root = torch.nn.Parameter(torch.zeros(label_width))
        self.arc_weight = torch.nn.Parameter(torch.zeros(arc_width + 1, arc_width))
        self.arc_places = torch.nn.Parameter(torch.zeros(arc_width + 1, N_PLACES))
        self.gate_dependents = torch.nn.Parameter(torch.zeros(arc_width + 1, 2 * N_GATES))
        self.gate_heads = torch.nn.Parameter(torch.zeros(arc_width, 2 * N_GATES))
        self.label_weight = torch.nn.Parameter(torch.zeros(n_labels, label_width + 1, label_width + 1))
        self.label_sides = torch.nn.Parameter(torch.zeros(label_width + 1, 3 * n_labels))
        self.hidden_root = torch.nn.Parameter(torch.zeros(hidden_width))
        self.hidden_sides = torch.nn.Parameter(torch.zeros(3, hidden_width))
        self.hidden_labels = torch.nn.Parameter(torch.zeros(n_labels, hidden_width + 1))
        for linear in (*self._layers(), self.gates):
            torch.nn.init.xavier_uniform_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
        torch.nn.init.normal_(self.arc_root, std=0.1)
        torch.nn.init.normal_(self.label_root, std=0.1)
        torch.nn.init.normal_(self.hidden_root, std=0.1)

    def _layers(self) -> Tuple[torch.nn.Linear, ...]:
        return self.arc_dependent, self.arc_head, self.label_dependent, self.label_head, self.label_child

    def forward(self, vectors: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """vectors: *Shape:* (n_words, width)"""
        vectors = self.dropout(vectors)
        projected = (self.dropout(torch.nn.functional.gelu(layer(vectors))) for layer in self._layers())
        gates = torch.nn.functional.softplus(self.gates(vectors))
        arcs = (self.arc_weight, self.arc_places, self.gate_dependents, self.gate_heads)
        labels = (self.label_weight, self.label_sides, self.hidden_root, self.hidden_sides, self.hidden_labels)
        return Projections(*projected, self.hidden(vectors), gates, self.arc_root, self.label_root, *arcs, *labels)


def _with_one(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, tensor.new_ones((*tensor.shape[:-1], 1))], dim=-1)


def _with_root(states: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    return torch.cat([root.expand(len(states), 1, -1), states], dim=1)


def head_places(length: int, device: torch.device) -> torch.Tensor:
    """What kind of place each head has for each word of a sentence. *Shape:* (length, 1 + length): [dependent, head]"""
    words = torch.arange(1, 1 + length, device=device)
    apart = words[None, :] - words[:, None]
    bounds = torch.tensor(_DISTANCES, device=device)
    kinds = 1 + torch.bucketize(apart.abs(), bounds, right=True) + torch.where(apart > 0, len(_DISTANCES) + 1, 0)
    return torch.cat([kinds.new_zeros((length, 1)), kinds], dim=1)


def score_arcs(projections: Projections, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Score all arcs of some sentences.

    words: The words of each sentence, by their places in the projections, padded. *Shape:* (n_sentences, length)
    lengths: *Shape:* (n_sentences,)
    *Shape of the result:* (n_sentences, length, 1 + length): [dependent, head]; the first head is the root. Arcs to
    words beyond the end, and of words to themselves, have minus infinity.
    """
    dependents = _with_one(embedding(words, projections.arc_dependent))
    heads = _with_root(embedding(words, projections.arc_head), projections.arc_root)
    length = words.shape[1]
    by_place = dependents @ projections.arc_places
    kinds = head_places(length, words.device).expand(len(words), -1, -1)
    scores = dependents @ projections.arc_weight @ heads.transpose(1, 2) + by_place.gather(2, kinds)
    scores = scores + _score_between(projections, words, dependents, heads)
    places = torch.arange(1 + length, device=words.device)
    never = places[None, None, :] > lengths[:, None, None]
    itself = places[None, :] == places[1:, None]
    return scores.masked_fill(never | itself[None], float("-inf"))


def _score_between(
    projections: Projections, words: torch.Tensor, dependents: torch.Tensor, heads: torch.Tensor
) -> torch.Tensor:
    """The part of the scores of arcs that comes of the words between.

    words: As in `score_arcs`, which also has ``dependents`` and ``heads``.
    *Shape of the result:* (n_sentences, length, 1 + length); nothing of it is for the root.
    """
    length = words.shape[1]
    at_once = max(1, _PAIRS // (length * length)) if words.device.type == "cpu" else len(words)
    own, other = dependents @ projections.gate_dependents, heads[:, 1:] @ projections.gate_heads
    weights = torch.cat([own, other], dim=2).unflatten(2, (4, N_GATES))
    parts = zip(embedding(words, projections.gates).split(at_once), weights.split(at_once))
    return torch.nn.functional.pad(torch.cat([_weigh_between(*part) for part in parts]), (1, 0))


def _weigh_between(gates: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """gates: *Shape:* (n_sentences, length, N_GATES)
    weights: Of words as dependents of heads before and after them, and as heads before and after their dependents.
        *Shape:* (n_sentences, length, 4, N_GATES)
    *Shape of the result:* (n_sentences, length, length)
    """
    # The sums up to each word, with it and without it.
    upto = gates.cumsum(dim=1)
    before = torch.nn.functional.pad(upto[:, :-1], (0, 0, 1, 0))
    rows, columns = (tensor.transpose(1, 2)[:, None] for tensor in (upto, before))
    # One of the two is below zero, that of the wrong side. *Shape:* (n_sentences, length, N_GATES, length)
    sides = before[..., None] - rows, columns - upto[..., None]
    between = torch.maximum(*sides).clamp_min(0.0).log1p()
    # What is between is the same seen from both words.
    own_before, own_after, other_before, other_after = (weights @ between).unbind(2)
    places = torch.arange(gates.shape[1], device=gates.device)
    return torch.where(
        places[None, :] < places[:, None],
        own_before + other_before.transpose(1, 2),
        own_after + other_after.transpose(1, 2),
    )


def score_labels(projections: Projections, words: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    """Score the labels of one arc of each word, in a tree.

    words: As in `score_arcs`.
    heads: The head of each word, from 1, or 0 for the root. *Shape:* (n_sentences, length)
    *Shape of the result:* (n_sentences, length, n_labels)
    """
    n_labels, size, _ = projections.label_weight.shape
    places = torch.arange(1, 1 + words.shape[1], device=words.device)
    sides = torch.where(heads == 0, 0, torch.where(heads < places, 1, 2))
    # Whose head each word is: sums over dependents and choices of heads are products of matrices.
    hangs = (heads[:, None] == places[:, None]).to(projections.label_child.dtype)  # [sentence, head, dependent]
    children = embedding(words, projections.label_child)
    sums = hangs @ children
    own = _with_one(embedding(words, projections.label_dependent) + sums).reshape(-1, size)
    on_root = (heads == 0)[:, :, None]
    states = embedding(words, projections.label_head) + sums
    chosen = _of_heads(states, projections.label_root, hangs, on_root) - children.masked_fill(on_root, 0.0)
    chosen = _with_one(chosen).reshape(-1, size)
    weight = projections.label_weight.permute(1, 0, 2).reshape(size, n_labels * size)
    at_once = _CHUNK if words.device.type == "cpu" else max(1, len(own))
    pairs = zip(own.split(at_once), chosen.split(at_once))
    scores = torch.cat([((a @ weight).unflatten(-1, (n_labels, size)) @ b[..., None])[..., 0] for a, b in pairs])
    by_side = (own @ projections.label_sides).unflatten(-1, (3, n_labels))
    scores = scores + by_side[torch.arange(len(own), device=words.device), sides.reshape(-1)]
    of_dependent, of_head, of_child, of_sibling = embedding(words, projections.hidden).chunk(4, dim=2)
    by_children, by_siblings = (hangs @ torch.cat([of_child, of_sibling], dim=2)).chunk(2, dim=2)
    of_heads = _of_heads(of_head + by_siblings, projections.hidden_root, hangs, on_root)
    hidden = of_dependent + by_children + of_heads - of_sibling.masked_fill(on_root, 0.0)
    hidden = hidden + projections.hidden_sides[sides]
    weight, bias = projections.hidden_labels[:, :-1], projections.hidden_labels[:, -1]
    by_hidden = torch.nn.functional.linear(torch.nn.functional.gelu(hidden), weight, bias)
    return scores.unflatten(0, words.shape) + by_hidden


def _of_heads(states: torch.Tensor, root: torch.Tensor, hangs: torch.Tensor, on_root: torch.Tensor) -> torch.Tensor:
    """The states of the words' heads."""
    return hangs.transpose(1, 2) @ states + on_root * root


def tree_loss(arcs: torch.Tensor, heads: torch.Tensor, is_tree: torch.Tensor) -> torch.Tensor:
    """How improbable the annotated heads are; the sum over sentences.

    A tree with one word on the root is as probable as the exponential of its arcs' scores, among all such trees. Heads
    that make none, because some are unknown or for another reason, are each as probable as among the heads of its word.

    arcs: As `score_arcs` gives them.
    heads: From 1, 0 for the root, -1 where nothing is annotated and beyond the end. *Shape:* (n_sentences, length)
    is_tree: Whether a sentence's heads are all known and make such a tree. *Shape:* (n_sentences,)
    """
    by_word = torch.nn.functional.cross_entropy(
        arcs[~is_tree].flatten(0, 1), heads[~is_tree].flatten(), ignore_index=-1, reduction="sum"
    )
    arcs, heads = arcs[is_tree], heads[is_tree]
    is_word = heads >= 0
    found = arcs.gather(2, heads.clamp_min(0)[:, :, None])[:, :, 0]
    return by_word + log_sum_of_trees(arcs, is_word).sum() - found[is_word].sum()


def log_sum_of_trees(arcs: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
    """The logarithm of the sum of the exponentials of the scores of all trees with one word on the root, by the
    matrix-tree theorem (Koo et al. 2007).

    arcs: As `score_arcs` gives them.
    is_word: Not beyond the end. *Shape:* (n_sentences, length)
    *Shape of the result:* (n_sentences,)
    """
    most = arcs.amax(dim=2, keepdim=True).detach()
    weights = (arcs.double() - most).exp() * is_word[:, :, None]
    others = weights[:, :, 1:]
    laplacian = torch.diag_embed(others.sum(dim=2) + ~is_word) - others
    laplacian = torch.cat([weights[:, :, :1], laplacian[:, :, 1:]], dim=2)
    trees = torch.linalg.slogdet(laplacian).logabsdet
    return (trees + (most[:, :, 0] * is_word).sum(dim=1)).to(arcs.dtype)
