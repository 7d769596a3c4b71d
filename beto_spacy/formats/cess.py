"""The analyses of CESS-ESP, AnCora's first edition, as UD Spanish AnCora has them.

CESS-ESP says what a word is by a tag of EAGLES: ``da0fs0``, an article, feminine, singular. `as_ancora` adds what UD's
features say more (``Definite=Def|PronType=Art``), and leaves out the analysis of words where the two treebanks follow
different guidelines or where the tag doesn't decide. It knows words and tags only; reading files is `formats`' task.
"""

import re
from typing import Dict, List, NamedTuple, Optional, Tuple


class Analysis(NamedTuple):
    """What a word is. An empty part of speech goes with empty features, and means that both are unknown.

    lemma: "" where it's unknown.
    pos, morph: Of UD.
    """

    lemma: str
    pos: str
    morph: str


UNKNOWN = Analysis("", "", "")

#: Features to add, by the beginning of the tag; the longest that fits counts.
_ADDED: Dict[str, str] = {
    "Faa": "PunctSide=Ini|PunctType=Excl", "Fat": "PunctSide=Fin|PunctType=Excl", "Fc": "PunctType=Comm",
    "Fd": "PunctType=Colo", "Fe": "PunctType=Quot", "Fg": "PunctType=Dash", "Fia": "PunctSide=Ini|PunctType=Qest",
    "Fit": "PunctSide=Fin|PunctType=Qest", "Fp": "PunctType=Peri", "Fpa": "PunctSide=Ini|PunctType=Brck",
    "Fpt": "PunctSide=Fin|PunctType=Brck", "Fs": "PunctType=Comm", "Fx": "PunctType=Semi",
    "Z": "NumForm=Digit|NumType=Card",
    "a": "", "ao": "NumType=Ord", "cc": "", "cs": "", "da0": "Definite=Def|PronType=Art", "dd": "PronType=Dem",
    "dn": "NumType=Card", "dp": "Poss=Yes|PronType=Prs", "i": "", "n": "", "pd": "PronType=Dem", "pn": "NumType=Card",
    "pp3cpd": "Case=Dat|PronType=Prs", "pp3csd": "Case=Dat|PronType=Prs", "pp3fp0": "Case=Acc,Nom|PronType=Prs",
    "pp3fs0": "Case=Acc,Nom|PronType=Prs",
    "pp3fpa": "Case=Acc|PrepCase=Npr|PronType=Prs", "pp3fsa": "Case=Acc|PrepCase=Npr|PronType=Prs",
    "pp3mp0": "Case=Acc,Nom|PronType=Prs", "pp3ms0": "Case=Acc,Nom|PronType=Prs",
    "pp3mpa": "Case=Acc|PrepCase=Npr|PronType=Prs",
    "pr0c": "PronType=Int,Rel", "pt0cs": "PronType=Int,Rel", "rg": "",
    "rn": "Polarity=Neg", "sps": "", "spcms": "Definite=Def|Gender=Masc|Number=Sing|PronType=Art", "v": "",
}  # fmt: skip
_LONGEST = max(map(len, _ADDED))
#: Marks that the files write with letters.
_MARKS = {"-fe-": '"'}
_CONTRACTIONS = {"del": "de el", "al": "a el"}
#: Numerals of one word that aren't plural: an article, a half, a double.
_SINGULAR = re.compile(r"[dp]n0.s")
_PARTICIPLE = re.compile(r"aq0..p")
_POSSESSOR = {"s": "Sing", "p": "Plur"}
#: AnCora has Degree=Cmp or Degree=Sup there, Polarity=Neg, or nothing.
_VARYING = frozenset(
    (
        "ex no máximo máxima máximos máximas mínimo mínima mínimos mínimas más menos mejor mejores peor peores mayor "
        "mayores menor menores superior superiores inferior inferiores"
    ).split()
)
#: Verbs that AnCora takes for auxiliaries in some uses, and CESS-ESP for verbs.
_AUXILIARIES = frozenset("deber estar haber ir poder ser soler tener venir volver".split())


def as_ancora(form: str, lemma: str, pos: str, tag: str, morph: str) -> Analysis:
    """What UD Spanish AnCora would say of a word of CESS-ESP.

    form: One word; of several that are joined with ``_`` nothing is known.
    lemma, pos, morph: As UD's columns have them after a mapping by the first letters of the tag; "" for none.
    tag: Of EAGLES.
    """
    added = _added(tag)
    low = form.lower()
    if added is None or _is_uncertain(low, lemma, tag):
        return UNKNOWN
    features = _features(morph)
    features.update(_features(added))
    if tag.startswith(("dn", "pn")):
        pos = "NUM"
    elif tag.startswith("dp") and tag[-1:] in _POSSESSOR and features.get("Person") != "3":
        features["Number[psor]"] = _POSSESSOR[tag[-1]]
    elif _PARTICIPLE.fullmatch(tag):
        features["VerbForm"] = "Part"
    if pos in ("NUM", "PUNCT") and not form.isalpha():
        lemma = form
    return Analysis(_CONTRACTIONS.get(low, lemma), pos, "|".join(f"{k}={v}" for k, v in _sorted(features)))


def surface(form: str) -> Tuple[str, ...]:
    """The words of a token of CESS-ESP as they stand in a text: those that ``_`` joins, and marks as such."""
    words = tuple(word for word in form.split("_") if word)
    return tuple(_MARKS.get(word, word) for word in words) or (form,)


def _added(tag: str) -> Optional[str]:
    """The features to add; None for a tag that isn't mapped."""
    for length in range(min(len(tag), _LONGEST), 0, -1):
        if tag[:length] in _ADDED:
            return _ADDED[tag[:length]]
    return None


def _is_uncertain(form: str, lemma: str, tag: str) -> bool:
    if tag.startswith("F"):
        return form.isalnum()  # an enumeration's letter; "etc"
    if tag.startswith("Z"):
        return len(tag) > 1 or not form[:1].isdigit()
    if tag.startswith(("a", "rg")) and form in _VARYING:
        return True
    if tag.startswith("v"):
        # An imperative can have enclitics, which no feature tells; so can infinitives and gerunds.
        encliticized = (tag[2:3] == "n" and not form.endswith("r")) or (tag[2:3] == "g" and not form.endswith("ndo"))
        return tag[2:3] == "m" or encliticized or (tag.startswith("vm") and lemma in _AUXILIARIES)
    return tag.startswith("da0n") or _SINGULAR.match(tag) is not None


def _features(text: str) -> Dict[str, str]:
    return dict(part.split("=", 1) for part in text.split("|") if part)


def _sorted(features: Dict[str, str]) -> List[Tuple[str, str]]:
    return sorted(features.items(), key=lambda item: item[0].lower())
