"""Training documents as people write them: without the punctuation that ends a sentence.

A model that only ever saw sentences that end with a full stop takes the full stop for the end. In headlines, lists and
messages there is none.
"""

import random
from functools import partial
from typing import Any, Callable, Dict, Iterator, List

import numpy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from beto_spacy.errors import CorpusError

_FINAL = frozenset(".…!?") | {"...", "..", "?!", "!?"}
#: What says that a document has a layer, how a token is asked for it, and what `Doc` calls it.
_LAYERS = (
    ("TAG", "tag_", "tags"),
    ("POS", "pos_", "pos"),
    ("MORPH", "morph", "morphs"),
    ("LEMMA", "lemma_", "lemmas"),
    ("DEP", "dep_", "deps"),
)


def make_final_punctuation_augmenter(level: float, elsewhere: float = 0.0) -> Callable[..., Iterator[Example]]:
    """Build ``beto_spacy.drop_final_punctuation.v1``, an augmenter for the readers of training corpora.

    level: How many of the documents lose all their final punctuation, 0 to 1.
    elsewhere: How many sentences of the other documents lose theirs, 0 to 1. In AnCora one in a hundred has none.
    """
    if not (0.0 <= level <= 1.0 and 0.0 <= elsewhere <= 1.0):
        raise CorpusError("B270", f"{level} and {elsewhere} are no shares.", "Give numbers from 0 to 1.")
    return partial(_augment, level=level, elsewhere=elsewhere)


def _augment(nlp: Language, example: Example, *, level: float, elsewhere: float) -> Iterator[Example]:
    share = 1.0 if random.random() < level else elsewhere
    doc = without_final_punctuation(example.reference, share=share) if share else example.reference
    yield example if doc is example.reference else Example(nlp.make_doc(doc.text), doc)


def without_final_punctuation(doc: Doc, *, share: float = 1.0) -> Doc:
    """A document without the marks that end its sentences (``.``, ``…``, ``!``, ``?``); all other annotation stays.

    doc: With sentences. Without, or with spans that would be cut, or with nothing to leave out, it's returned itself.
    share: How many of its sentences lose them, by chance (`random`); 1 for all.
    """
    if not doc.has_annotation("SENT_START") or doc.spans:
        return doc
    kept = numpy.ones(len(doc), dtype=bool)
    heads = doc.to_array(["HEAD"]).astype("i8") + numpy.arange(len(doc))
    for sentence in doc.sents:
        end = sentence.end
        while end > sentence.start and (doc[end - 1].text in _FINAL or doc[end - 1].is_space):
            end -= 1
        needed = numpy.isin(numpy.arange(end, sentence.end), heads[sentence.start : end]).any()
        in_entity = any(token.ent_type for token in doc[end : sentence.end])
        if end > sentence.start and not needed and not in_entity and (share >= 1.0 or random.random() < share):
            kept[end : sentence.end] = False
    return doc if kept.all() else _only(doc, kept, heads)


def _only(doc: Doc, kept: numpy.ndarray, heads: numpy.ndarray) -> Doc:
    """The tokens that are kept, with their annotation; none of them hangs on one that isn't."""
    places = numpy.flatnonzero(kept)
    tokens = [doc[int(i)] for i in places]
    spaces: List[bool] = []
    for this, following in zip(places, [*places[1:], len(doc)]):
        spaces.append(any(doc[int(i)].whitespace_ or doc[int(i)].is_space for i in range(this, following)))
    layers: Dict[str, Any] = {}
    if doc.has_annotation("ENT_IOB"):
        iob = {0: "", 1: "I-", 2: "O", 3: "B-"}
        layers["ents"] = [iob[token.ent_iob] + token.ent_type_ or None for token in tokens]
    for layer, attribute, name in _LAYERS:
        if doc.has_annotation(layer):
            layers[name] = [str(getattr(token, attribute)) for token in tokens]
    if "deps" in layers:
        new = numpy.cumsum(kept) - 1
        layers["heads"] = [int(new[heads[i]]) for i in places]
    else:
        layers["sent_starts"] = [token.is_sent_start for token in tokens]
    found = Doc(doc.vocab, words=[token.text for token in tokens], spaces=spaces, **layers)
    found.cats = dict(doc.cats)
    return found
