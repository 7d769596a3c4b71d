"""Documents as CoNLL-U, and the official scores of the CoNLL 2018 shared task.

Also what the layers of a document's annotation are, which writing and scoring have in common.
"""

import io
import sys
from typing import Any, Collection, Dict, Iterable, List, Optional, Sequence, Set, Tuple

from spacy.tokens import Doc, Token
from spacy.training import Example

from beto_spacy.errors import CorpusError
from beto_spacy.spanish.multiwords import Word, split_token

#: The layers of annotation, besides the tokens, that a corpus can have and a pipeline can give.
LAYERS = ("tag", "pos", "morph", "lemma", "sentences", "dependencies", "entities", "categories")
#: Those of them that CoNLL-U holds.
SYNTAX = LAYERS[:6]
#: The columns of CoNLL-U between FORM and HEAD.
COLUMNS = ("lemma", "pos", "tag", "morph")
#: The metrics of the CoNLL-18 shared task, and the layers that each compares.
CONLL18 = {
    "Tokens": (),
    "Sentences": ("sentences",),
    "Words": (),
    "UPOS": ("pos",),
    "XPOS": ("tag",),
    "UFeats": ("morph",),
    "AllTags": ("pos",),
    "Lemmas": ("lemma",),
    "UAS": ("dependencies",),
    "LAS": ("dependencies",),
    "CLAS": ("dependencies",),
    "MLAS": ("dependencies", "pos", "morph"),
    "BLEX": ("dependencies", "lemma"),
}

Scores = Dict[str, Any]


def is_space(token: Token) -> bool:
    """Whether the token is whitespace only; unlike the flag is_space, whatever the vocab."""
    return token.text.isspace()


def value_of(token: Token, layer: str) -> Optional[str]:
    """The token's value on a layer; None if it has none. An empty set of features is a value."""
    if layer == "morph":
        return str(token.morph) if token.has_morph() else None
    if layer == "dependencies":
        return token.dep_.lower() or None
    return getattr(token, f"{layer}_") or None


def head_of(token: Token) -> Token:
    """The token's head; past whitespace tokens, and the token itself where that leads nowhere."""
    head = token.head
    for _ in range(len(token.doc)):
        if not is_space(head):
            return head
        head = head.head
    return token


def has_layer(doc: Doc, layer: str) -> bool:
    if layer == "categories":
        return bool(doc.cats)
    if layer == "entities":
        return len(doc) > 0 and doc.has_annotation("ENT_IOB")
    if layer == "sentences":
        return len(doc) > 0 and doc.has_annotation("SENT_START")
    return any(value_of(token, layer) is not None for token in doc if not is_space(token))


def layers_of(docs: Iterable[Doc]) -> List[str]:
    """Name the layers, of `LAYERS`, that any of the documents has.

    A document of one token is no sign of sentence boundaries, since spaCy takes them as set there.
    """
    found = set()
    for doc in docs:
        found |= {
            layer
            for layer in LAYERS
            if layer not in found and (layer != "sentences" or len(doc) > 1) and has_layer(doc, layer)
        }
    return [layer for layer in LAYERS if layer in found]


# --- CoNLL-U ---------------------------------------------------------------------------------------------------------


def _field(value: Optional[str]) -> str:
    """A column's value: inner whitespace as single spaces, ``_`` for nothing."""
    return " ".join((value or "").split()) or "_"


def _tree(words: Sequence[Token], parsed: bool) -> Tuple[List[int], List[str]]:
    """A valid tree over the words, with one root, by the rule in `doc_to_conllu`.

    RETURNS: for each word the number of its head (0: root), and its relation.
    """
    numbers = {token.i: number for number, token in enumerate(words, start=1)}
    heads = [numbers.get(head_of(token).i, 0) if parsed else 0 for token in words]
    heads = [0 if head == number else head for number, head in enumerate(heads, start=1)]
    done = {0}
    for start in range(1, len(words) + 1):
        path: Set[int] = set()
        number = start
        while number not in done and number not in path:
            path.add(number)
            number = heads[number - 1]
        if number not in done:
            heads[number - 1] = 0
        done.update(path)
    relations = [token.dep_ if parsed and token.dep_ else "dep" for token in words]
    tops = [number for number, head in enumerate(heads, start=1) if head == 0]
    root = next((number for number in tops if relations[number - 1].lower() == "root"), tops[0])
    for number in tops:
        heads[number - 1] = root
    relations = ["dep" if relation.lower() == "root" else relation for relation in relations]
    heads[root - 1], relations[root - 1] = 0, "root"
    return heads, relations


def doc_to_conllu(doc: Doc, *, prefix: str = "", layers: Optional[Collection[str]] = None, expand: bool = False) -> str:
    """Write a document as CoNLL-U: https://universaldependencies.org/format.html.

    Every token is one word: what a corpus reader merged (``del``) stays merged, unless it's to be expanded. Whitespace
    tokens are left out, and whitespace inside a token becomes a space. Without sentence boundaries the document is one
    sentence. A value that isn't set is ``_``.

    Every sentence is a valid tree. Its root is the first word without a head in the sentence whose relation is ROOT,
    or else the first word without a head; the other words without a head are attached to the root, with the relation
    that they have, ``dep`` if none (or ROOT). A cycle is cut at the word of it that is met first from the sentence's
    start. No word but the root has the relation ``root``.

    prefix: What ``sent_id`` begins with; the sentence's number in the document, from 1, follows.
    layers: Write these of the `LAYERS` only; the others are ``_``, and the tree is flat. None: all.
    expand: Write tokens of several words as ranges with their words below, as `multiwords.split_token` finds them. The
        first word takes the token's place in the tree; pronouns hang on it, an article on its head.
    RETURNS: the text, each sentence followed by an empty line; "" for a document without words.
    """
    wanted = set(LAYERS if layers is None else layers)
    split = "sentences" in wanted and len(doc) > 0 and doc.has_annotation("SENT_START")
    lines: List[str] = []
    number = 0
    for sentence in doc.sents if split else [doc[:]]:
        words = [token for token in sentence if not is_space(token)]
        if not words:
            continue
        number += 1
        heads, relations = _tree(words, "dependencies" in wanted)
        parts = [split_token(token) if expand else [] for token in words]
        firsts = [1]  # the number of each token's first word
        for own in parts:
            firsts.append(firsts[-1] + max(1, len(own)))
        rows, text = [], ""
        for index, token in enumerate(words):
            form = _field(token.text)
            after = token.i + 1
            glued = not token.whitespace_ and not token.text[-1].isspace() and after < len(doc)
            glued = glued and not doc[after].text[0].isspace()
            text += form if glued else form + " "
            space = "SpaceAfter=No" if glued else "_"
            first = firsts[index]
            head = firsts[heads[index] - 1] if heads[index] else 0
            if parts[index]:
                rows.append("\t".join([f"{first}-{firsts[index + 1] - 1}", form, *"_" * 7, space]))
                rows += _word_rows(token, parts[index], first, head, relations[index], wanted)
                continue
            values = [_field(value_of(token, layer) if layer in wanted else None) for layer in COLUMNS]
            rows.append("\t".join([str(first), form, *values, str(head), _field(relations[index]), "_", space]))
        lines += [f"# sent_id = {prefix}{number}", f"# text = {text.rstrip()}", *rows, ""]
    return "\n".join([*lines, ""]) if lines else ""


def _word_rows(
    token: Token, words: Sequence[Word], first: int, head: int, relation: str, wanted: Set[str]
) -> List[str]:
    """The lines of a token's words.

    first: The number of the first one. head, relation: Of the token.
    """
    parsed = "dependencies" in wanted
    tags = token.tag_.split("_")  # as readers merge them
    tags = tags if len(tags) == len(words) else [""] * len(words)
    rows = []
    for offset, word in enumerate(words):
        values = {"lemma": word.lemma, "pos": word.pos, "morph": word.morph, "tag": tags[offset]}
        columns = [_field(values[layer] if layer in wanted else None) for layer in COLUMNS]
        place = (head, relation) if not offset else (first, word.dep if parsed else "dep")
        if offset and word.dep == "det" and head:
            place = (head, place[1])
        rows.append("\t".join([str(first + offset), word.form, *columns, str(place[0]), _field(place[1]), "_", "_"]))
    return rows


def conll18_scores(examples: Sequence[Example], *, layers: Optional[Collection[str]] = None) -> Optional[Scores]:
    """The official scores of the CoNLL 2018 shared task, from the evaluator in the package udtools.

    Gold and predictions go through `doc_to_conllu`, so merged tokens are single words. Scored are the gold documents
    that have every syntactic layer that any of them has. A metric over a layer that gold or pipeline lacks is None;
    AllTags covers the columns that gold has. Source: https://universaldependencies.org/conll18/evaluation.html.

    layers: The layers that the pipeline gives; None: those that the predicted documents have.
    RETURNS: ``documents`` (their number) and ``metrics``: for each metric precision, recall, f1 and aligned_accuracy
        (None for Tokens, Sentences and Words), or None. None if gold has no syntactic layer.
    """
    given = set(layers_of(eg.predicted for eg in examples) if layers is None else layers)
    present = [layer for layer in layers_of(eg.reference for eg in examples) if layer in SYNTAX]
    chosen = [eg for eg in examples if present and all(has_layer(eg.reference, layer) for layer in present)]
    if not chosen:
        return None
    texts = [
        "".join(
            doc_to_conllu(getattr(eg, side), prefix=f"{number}-", layers=present)
            for number, eg in enumerate(chosen, start=1)
        )
        for side in ("reference", "predicted")
    ]
    results = _official_scores(*texts)
    tags = {layer for layer in ("tag", "morph") if layer in present}
    metrics: Dict[str, Optional[Scores]] = {}
    for metric, needs in CONLL18.items():
        needed = set(needs) | (tags if metric == "AllTags" else set())
        if needed <= given and needed <= set(present):
            metrics[metric] = _numbers(results[metric])
        else:
            metrics[metric] = None
    return {"documents": len(chosen), "metrics": metrics}


def _official_scores(gold: str, system: str) -> Dict[str, Any]:
    """What the official evaluator says of two files' contents."""
    from udtools.udeval import evaluate, load_conllu

    limit = sys.getrecursionlimit()
    # The evaluator follows heads by recursion: a chain may be as long as a sentence, and that as a document.
    longest = max(sentence.count("\n") for text in (gold, system) for sentence in text.split("\n\n"))
    sys.setrecursionlimit(max(limit, 1000 + longest))
    try:
        return evaluate(load_conllu(io.StringIO(gold), "gold", {}), load_conllu(io.StringIO(system), "system", {}))
    finally:
        sys.setrecursionlimit(limit)


def conll18_raw_scores(gold: str, docs: Iterable[Doc]) -> Dict[str, Dict[str, Optional[float]]]:
    """The official scores of raw text: tokens, words and sentences are the pipeline's own, multiword tokens too.

    gold: The contents of the treebank's CoNLL-U file.
    docs: The same text, annotated, in order, in documents of any length.
    Returns precision, recall, f1 and aligned_accuracy by metric. Raises CorpusError if the file isn't CoNLL-U, or the
    texts differ.
    """
    from udtools.udeval import UDError

    system = "".join(doc_to_conllu(doc, prefix=f"{number}-", expand=True) for number, doc in enumerate(docs, start=1))
    try:
        results = _official_scores(gold, system)
    except UDError as error:
        raise CorpusError(
            "B255", f"The evaluator refused the files ({error}).", "Give the treebank's own file and its own text."
        ) from error
    return {metric: _numbers(results[metric]) for metric in CONLL18}


def _numbers(score: Any) -> Dict[str, Optional[float]]:
    """What the evaluator says of a metric; aligned_accuracy is None for tokens, sentences and words."""
    names = ("precision", "recall", "f1", "aligned_accuracy")
    return {name: getattr(score, name) for name in names}
