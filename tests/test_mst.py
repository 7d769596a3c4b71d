"""Trees, against trying all of them."""

import itertools

import numpy
import pytest

from beto_spacy.heads.mst import best_trees, is_projective, is_tree


def reaches_root(heads):
    for word in range(1, len(heads) + 1):
        seen = set()
        while word:
            if word in seen:
                return False
            seen.add(word)
            word = heads[word - 1]
    return True


def crosses(heads):
    arcs = [tuple(sorted((word, head))) for word, head in enumerate(heads, 1)]
    return any(a < c < b < d for (a, b) in arcs for (c, d) in arcs)


def all_trees(n):
    for heads in itertools.product(range(n + 1), repeat=n):
        if sum(head == 0 for head in heads) == 1 and reaches_root(heads):
            yield heads


def total(scores, heads):
    return sum(scores[i, head] for i, head in enumerate(heads))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_what_a_tree_is(n):
    trees = set(all_trees(n))
    for heads in itertools.product(range(n + 1), repeat=n):
        assert is_tree(numpy.asarray(heads)) == (heads in trees)
    for heads in trees:
        assert is_projective(numpy.asarray(heads)) == (not crosses(heads))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("projective", [False, True])
@pytest.mark.parametrize("root", [-3.0, 0.0, 3.0])
def test_it_is_the_best_of_all_trees(n, projective, root):
    trees = [heads for heads in all_trees(n) if not (projective and crosses(heads))]
    chance = numpy.random.default_rng(n)
    for _ in range(40):
        scores = chance.normal(size=(n, n + 1))
        scores[:, 0] += root  # many words want the root, or none does
        (heads,) = best_trees([scores], projective=projective)
        assert tuple(heads) in trees
        assert total(scores, heads) == pytest.approx(max(total(scores, tree) for tree in trees))


def test_long_sentences_and_large_scores():
    chance = numpy.random.default_rng(0)
    for scale in (1.0, 1e6):
        scores = scale * chance.normal(size=(300, 301))
        (heads,) = best_trees([scores.astype("f")])
        assert is_tree(heads)
    (heads,) = best_trees([chance.normal(size=(60, 61))], projective=True)
    assert is_tree(heads) and is_projective(heads)
    assert best_trees([]) == []
