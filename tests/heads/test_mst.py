"""Trees, against trying all of them."""

import itertools

import numpy
import pytest

from beto_spacy.heads.parser.mst import are_trees, best_trees, is_projective


def is_tree(heads):
    return bool(are_trees(heads[None], [len(heads)])[0])


def best_tree(scores, projective=False):
    heads = scores.copy()
    heads[numpy.arange(len(scores)), 1 + numpy.arange(len(scores))] = -numpy.inf
    (found,) = best_trees(heads.argmax(axis=1)[None], [len(scores)], lambda rows: heads[None], projective=projective)
    return found


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
        heads = best_tree(scores, projective)
        assert tuple(heads) in trees
        assert total(scores, heads) == pytest.approx(max(total(scores, tree) for tree in trees))


def test_long_sentences_and_large_scores():
    chance = numpy.random.default_rng(0)
    for scale in (1.0, 1e6):
        scores = scale * chance.normal(size=(300, 301))
        heads = best_tree(scores.astype("f"))
        assert is_tree(heads)
    heads = best_tree(chance.normal(size=(60, 61)), projective=True)
    assert is_tree(heads) and is_projective(heads)


def test_sentences_of_a_batch_do_not_touch_each_other():
    heads = numpy.asarray([[2, 0, 2, 0], [2, 1, 0, 0], [0, 0, 0, 0], [0, 1, 2, 3]])
    assert are_trees(heads, [3, 3, 1, 4]).tolist() == [True, False, True, True]
    asked = []

    def scores_of(rows):
        asked.extend(rows)
        scores = [[0.0, -numpy.inf, 3.0, 0.0], [1.0, 3.0, -numpy.inf, 0.0], [0.0, 0.0, 0.5, -numpy.inf]]
        return numpy.pad(numpy.asarray([scores]), ((0, 0), (0, 1), (0, 1)), constant_values=9.0)  # beyond the end

    found = best_trees(heads, [3, 3, 1, 4], scores_of)
    assert asked == [1] and found[1].tolist() == [2, 0, 2, 0]
    assert (found[[0, 2, 3]] == heads[[0, 2, 3]]).all()
