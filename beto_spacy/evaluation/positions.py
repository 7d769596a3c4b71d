"""Accuracy by position in the document: a weakness of the encoder at positions that it was hardly trained on.

Positions are those of tokens, counted from the start of the document without whitespace. A pipeline whose windows
aren't longer than the sequences that its encoder was trained on is as good late in a document as early; longer windows
(``components.transformer.model.window``) show from which position on the encoder reads worse.
"""

from bisect import bisect_right
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

#: Where each bin begins, in tokens; the last one has no end.
BIN_STARTS = (0, 32, 64, 128, 256, 512)


def bin_names(starts: Tuple[int, ...] = BIN_STARTS) -> List[str]:
    """Name the bins: ``0-31``, ..., ``512+``."""
    return [f"{start}-{end - 1}" for start, end in zip(starts, starts[1:])] + [f"{starts[-1]}+"]


def accuracy_scores(judged: Sequence[Optional[bool]]) -> Optional[Dict[str, Any]]:
    """Count right values.

    Args:
        judged: For each gold token with a value, whether the pipeline has the same; None if it has no such token.

    Returns:
        ACCURACY as in `evaluate`; None if there is no gold token.
    """
    support, correct = len(judged), judged.count(True)
    aligned = support - judged.count(None)
    if not support:
        return None
    return {
        "accuracy": correct / support,
        "aligned_accuracy": correct / aligned if aligned else None,
        "support": support,
        "aligned": aligned,
        "correct": correct,
    }


def position_scores(judged: Iterable[Tuple[int, Optional[bool]]]) -> Dict[str, Dict[str, Any]]:
    """Count right values by position.

    Args:
        judged: For each gold token with a value, its position in its document, and as in `accuracy_scores`.

    Returns:
        ACCURACY by bin, in order; bins without tokens are left out.
    """
    bins: List[List[Optional[bool]]] = [[] for _ in BIN_STARTS]
    for position, right in judged:
        bins[bisect_right(BIN_STARTS, position) - 1].append(right)
    scores = {name: accuracy_scores(found) for name, found in zip(bin_names(), bins)}
    return {name: score for name, score in scores.items() if score}


def position_rows(
    positions: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> List[Tuple[str, int, List[Optional[float]]]]:
    """Lay out the scores of several layers side by side.

    Args:
        positions: By layer, what `position_scores` gives.

    Returns:
        By bin: its name, its tokens in the layer that has the most there, and each layer's accuracy, None where it has
        no tokens.
    """
    rows = []
    for name in bin_names():
        found = [scores.get(name) for scores in positions.values()]
        if any(found):
            tokens = max(score["support"] for score in found if score)
            rows.append((name, tokens, [score and score["accuracy"] for score in found]))
    return rows
