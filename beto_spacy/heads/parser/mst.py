"""Trees from scores of arcs: the best one with a single root, projective or not. Numbers only.

Scores are of arcs from a head to a dependent, heads counted from 1, and 0 stands for the root of it all. Often the
best heads of all words make a tree already; where they don't, the best spanning arborescence is found by the algorithm
of Chu and Liu (1965) and Edmonds (1967), or the best projective tree by that of Eisner (1996).
"""

from typing import Callable, List, Sequence, Tuple

import numpy
from numpy.lib.stride_tricks import as_strided
from ufal.chu_liu_edmonds import chu_liu_edmonds

#: Of words, that spans are kept of at once: what is kept stays in the cache.
_PAIRS = 1 << 18
#: How much dearer arcs from the root are at first, as a share of how far apart scores are.
_DEARER = 0.1


def best_trees(
    heads: numpy.ndarray,
    lengths: Sequence[int],
    scores_of: Callable[[List[int]], numpy.ndarray],
    *,
    projective: bool = False,
) -> numpy.ndarray:
    """Find the best tree of each sentence; exactly one word of it hangs on the root.

    heads: Heads that no tree's are better than, from 1, or 0 for the root: the best of each word by itself, or the best
        with a single word on the root. 0 beyond the end. *Shape:* (n_sentences, length)
    lengths: Words of each sentence.
    scores_of: Gives the scores of the arcs of some sentences, *shape:* (n_chosen, length, 1 + length): [sentence,
        dependent, head]. Asked once, of those whose heads make no tree.
    projective: Whether no arcs may cross.
    Returns the head of each word, as ``heads``.
    """
    heads = heads.copy()
    done = are_trees(heads, lengths)
    crosses = [done[row] and projective and not is_projective(heads[row, :n]) for row, n in enumerate(lengths)]
    rows = numpy.flatnonzero(~done | crosses).tolist()
    if rows and projective:
        scores, at_once = scores_of(rows), max(1, _PAIRS // heads.shape[1] ** 2)
        for i in range(0, len(rows), at_once):
            some = rows[i : i + at_once]
            heads[some] = _eisner(scores[i : i + at_once], [lengths[row] for row in some])
    elif rows:
        for row, scores in zip(rows, scores_of(rows)):
            heads[row, : lengths[row]] = _arborescence(scores[: lengths[row], : lengths[row] + 1])
    return heads


def are_trees(heads: numpy.ndarray, lengths: Sequence[int]) -> numpy.ndarray:
    """Whether heads make a tree with one word on the root, for each sentence. *Shape:* (n_sentences,), bool

    heads, lengths: As in `best_trees`.
    """
    n_sentences, length = heads.shape
    beyond = length - numpy.asarray(lengths)
    single = (heads == 0).sum(axis=1) - beyond == 1
    reached = numpy.concatenate([numpy.zeros((n_sentences, 1), dtype=heads.dtype), heads], axis=1)
    for _ in range(int(length).bit_length()):  # twice as far up each time
        reached = numpy.take_along_axis(reached, reached, axis=1)
    return single & ~reached.any(axis=1)


def is_projective(heads: numpy.ndarray) -> bool:
    """Whether no two arcs of a tree cross, that of the root among them."""
    words = numpy.arange(1, len(heads) + 1)
    left, right = numpy.minimum(words, heads), numpy.maximum(words, heads)
    inside = (left[:, None] < left[None, :]) & (left[None, :] < right[:, None])
    return not (inside & (right[None, :] > right[:, None])).any()


def _arborescence(scores: numpy.ndarray) -> numpy.ndarray:
    n = len(scores)
    square = numpy.full((n + 1, n + 1), numpy.nan)
    square[1:] = scores
    square.reshape(-1)[:: n + 2] = numpy.nan  # no arc from a word to itself
    possible = numpy.isfinite(scores)
    spread = float(scores.max() - scores.min(where=possible, initial=numpy.inf)) + 1.0
    # As one arc of a tree comes from the root, all of them may be dearer. The dearer they are, the longer takes the
    # search: with a tenth of this, often the best tree of all has a single one; so dear, a second one never pays.
    for dearer in (_DEARER * spread, (n + 1) * spread):
        dear = square.copy()
        dear[1:, 0] -= dearer
        heads = numpy.asarray(chu_liu_edmonds(dear)[0][1:], dtype="i8")
        if (heads == 0).sum() == 1:
            break
    return heads


def _eisner(scores: numpy.ndarray, lengths: Sequence[int]) -> numpy.ndarray:
    """The best projective tree of each sentence; spans of words are put together from shorter ones, all of a width at
    once.

    scores: *Shape:* (n_sentences, length, 1 + length): [sentence, dependent, head]
    *Shape of the result:* (n_sentences, length)
    """
    n_sentences, n = scores.shape[:2]
    arcs = numpy.zeros((n_sentences, n + 1, n + 1), dtype=scores.dtype)  # [head, dependent], among words 1..n
    arcs[:, :, 1:] = scores.transpose(0, 2, 1)
    # Of spans with the head on the left and on the right, complete and not: [from, to], and some as [to, from], so that
    # what is summed lies together. Where they were joined.
    shape = (n_sentences, n + 1, n + 1)
    left, left_to, left_open, right, right_to, right_open_to = (
        numpy.full(shape, -numpy.inf, dtype=scores.dtype) for _ in range(6)
    )
    joined = numpy.zeros((3, *shape), dtype="i4")
    every = numpy.arange(1, n + 1)
    for spans in (left, left_to, right, right_to):
        spans[:, every, every] = 0.0
    for width in range(1, n):
        starts = numpy.arange(1, n - width + 1, dtype="i4")
        inner, k = _best(_runs(left, 0, 0, width), _runs(right_to, width, 1, width))
        _ends(joined[0], 0, width, width)[:] = starts + k
        _ends(left_open, 0, width, width)[:] = inner + _ends(arcs, 0, width, width)
        _ends(right_open_to, width, 0, width)[:] = inner + _ends(arcs, width, 0, width)
        found, k = _best(_runs(left_open, 0, 1, width), _runs(left_to, width, 1, width))
        _ends(left, 0, width, width)[:] = _ends(left_to, width, 0, width)[:] = found
        _ends(joined[1], 0, width, width)[:] = starts + 1 + k
        found, k = _best(_runs(right, 0, 0, width), _runs(right_open_to, width, 0, width))
        _ends(right, 0, width, width)[:] = _ends(right_to, width, 0, width)[:] = found
        _ends(joined[2], 0, width, width)[:] = starts + k
    heads = numpy.zeros((n_sentences, n), dtype="i8")
    for row, length in enumerate(lengths):
        words = numpy.arange(1, length + 1)
        roots = right[row, 1, words] + left[row, words, length] + arcs[row, 0, words]
        heads[row, :length] = _read(joined[:, row], int(words[roots.argmax()]), length)
    return heads


def _runs(spans: numpy.ndarray, down: int, right: int, width: int) -> numpy.ndarray:
    """Of each word i the spans [i + ``down``, i + ``right``] and on, ``width`` of them. A view, *shape:* (n_sentences,
    n - width, width)"""
    sentence, row, column = spans.strides
    shape = (len(spans), spans.shape[1] - 1 - width, width)
    return as_strided(spans[:, 1 + down :, 1 + right :], shape, (sentence, row + column, column), writeable=False)


def _ends(spans: numpy.ndarray, down: int, right: int, width: int) -> numpy.ndarray:
    """Of each word i the span [i + ``down``, i + ``right``]. A view, *shape:* (n_sentences, n - width)"""
    sentence, row, column = spans.strides
    shape = (len(spans), spans.shape[1] - 1 - width)
    return as_strided(spans[:, 1 + down :, 1 + right :], shape, (sentence, row + column))


def _best(before: numpy.ndarray, after: numpy.ndarray) -> Tuple[numpy.ndarray, numpy.ndarray]:
    """The best sum of two parts of each span, and which it is."""
    sums = before + after
    which = sums.argmax(axis=2)
    rows = sums.reshape(-1, sums.shape[2])
    return rows[numpy.arange(len(rows)), which.reshape(-1)].reshape(which.shape), which


def _read(joined: numpy.ndarray, root: int, n: int) -> List[int]:
    """The heads of a sentence, of where its spans were joined."""
    heads = [0] * (n + 1)
    todo = [("right", 0, 1, root), ("left", 0, root, n)]
    while todo:
        side, incomplete, i, j = todo.pop()
        if i == j:
            continue
        if incomplete:
            k = int(joined[0, i, j])
            heads[j if side == "left" else i] = i if side == "left" else j
            todo += [("left", 0, i, k), ("right", 0, k + 1, j)]
        elif side == "left":
            k = int(joined[1, i, j])
            todo += [("left", 1, i, k), ("left", 0, k, j)]
        else:
            k = int(joined[2, i, j])
            todo += [("right", 0, i, k), ("right", 1, k, j)]
    return heads[1:]
