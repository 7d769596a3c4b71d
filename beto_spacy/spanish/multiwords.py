"""Words inside tokens: contractions (*del*: de + el) and verbs with enclitics (*dámelo*: da + me + lo).

spaCy's tokenizer keeps them together, Universal Dependencies takes them apart. The component `beto_multiwords` says of
each token which syntactic words it has, ``token._.words``, and leaves tokens and offsets as they are. It's a matter of
rules: which tokens have clitics follows from their analysis, as the corpora's merged tokens have taught it to the other
components, and the form of the verb alone from the rules of written accents (RAE, Ortografía de la lengua española,
2010, chapter II).
"""

import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from spacy.language import Language
from spacy.morphology import Morphology
from spacy.tokens import Doc, Token

_KEY = "beto_multiwords"
_ACUTE = str.maketrans("áéíóúÁÉÍÓÚ", "aeiouAEIOU")
_ACCENTED = dict(zip("aeiouAEIOU", "áéíóúÁÉÍÓÚ"))

_CONTRACTIONS = {"al": "a", "del": "de"}
_ARTICLE = "Definite=Def|Gender=Masc|Number=Sing|PronType=Art"
#: Lemma and features of each clitic; those of the third person dative have no PrepCase in AnCora.
CLITICS = {
    "me": ("yo", "Case=Acc|Number=Sing|Person=1|PrepCase=Npr|PronType=Prs"),
    "te": ("tú", "Case=Acc|Number=Sing|Person=2|PrepCase=Npr|PronType=Prs"),
    "nos": ("yo", "Case=Acc|Number=Plur|Person=1|PrepCase=Npr|PronType=Prs"),
    "os": ("tú", "Case=Acc|Number=Plur|Person=2|PrepCase=Npr|PronType=Prs"),
    "se": ("él", "Case=Acc|Person=3|PrepCase=Npr|PronType=Prs|Reflex=Yes"),
    "lo": ("él", "Case=Acc|Gender=Masc|Number=Sing|Person=3|PrepCase=Npr|PronType=Prs"),
    "la": ("él", "Case=Acc|Gender=Fem|Number=Sing|Person=3|PrepCase=Npr|PronType=Prs"),
    "los": ("él", "Case=Acc|Gender=Masc|Number=Plur|Person=3|PrepCase=Npr|PronType=Prs"),
    "las": ("él", "Case=Acc|Gender=Fem|Number=Plur|Person=3|PrepCase=Npr|PronType=Prs"),
    "le": ("él", "Case=Dat|Number=Sing|Person=3|PronType=Prs"),
    "les": ("él", "Case=Dat|Number=Plur|Person=3|PronType=Prs"),
}
#: Clitics stand in this order, at most one of each kind.
_ORDER = re.compile(r"(?P<se>se)?(?P<te>te|os)?(?P<me>me|nos)?(?P<lo>los|las|les|lo|la|le)?")
_INFINITIVE_OR_GERUND = re.compile(r"([aei]r|ndo)$")
#: Infinitives of one syllable; charla and parte have none.
_SHORT_INFINITIVE = re.compile(r"^(dar|ver|ir|ser|.*[iu]ar|.*uir)$")
_IMPERATIVE = re.compile(r"([aeiouyndlrz]|mos)$")
_VERBAL = ("VerbForm", "Mood", "Tense")


class Word(NamedTuple):
    """A syntactic word of a token.

    form, lemma, pos, morph: As in Universal Dependencies; empty where nothing is known.
    dep: Its relation to the first word of the token, or to that word's head (of an article); empty for the first word.
    """

    form: str
    lemma: str
    pos: str
    morph: str
    dep: str


# --- written accents -------------------------------------------------------------------------------------------------


def _nuclei(word: str) -> List[Tuple[int, int]]:
    """The vowels of each syllable: where they start and end. Diphthongs are one, hiatuses two."""
    low = word.lower()
    spoken = []
    for i, c in enumerate(low):
        silent = c == "u" and low[i - 1 : i] in ("q", "g") and low[i + 1 : i + 2] in tuple("eiéí")
        final_y = c == "y" and i == len(low) - 1
        if (c in "aeiouáéíóúü" and not silent) or final_y:
            spoken.append(i)
    found: List[Tuple[int, int]] = []
    for i in spoken:
        if found and found[-1][1] == i:
            before, here = low[i - 1], low[i]
            strong = [c in "aeoáéó" for c in (before, here)]
            apart = all(strong) or (any(strong) and (before in "íú" or here in "íú"))
            if not apart:
                found[-1] = (found[-1][0], i + 1)
                continue
        found.append((i, i + 1))
    return found


def _ends_open(word: str) -> bool:
    return word[-1:].lower() in tuple("aeiouáéíóúns")


def _stress(word: str) -> int:
    """The number of the stressed syllable."""
    nuclei = _nuclei(word)
    for number, (start, end) in enumerate(nuclei):
        if any(c in "áéíóú" for c in word[start:end].lower()):
            return number
    last = len(nuclei) - 1
    return max(0, last - 1) if _ends_open(word) else max(0, last)


def _accentuate(word: str, stressed: int) -> str:
    """Write a word with an accent on that syllable if the rules want one, and without any other."""
    nuclei = _nuclei(word)
    plain = word.translate(_ACUTE)
    if not nuclei:
        return plain
    start, end = nuclei[stressed]
    vowels = plain[start:end].lower()
    strong = [i for i, c in enumerate(vowels) if c in "aeo"]
    place = start + (strong[0] if strong else len(vowels) - 1)
    from_end = len(nuclei) - 1 - stressed
    hiatus = plain[place].lower() in "iu" and any(
        end == other[0] or other[1] == start for other in nuclei if other != (start, end)
    )
    if len(nuclei) == 1 and not hiatus:
        return {"de": "dé", "se": "sé", "De": "Dé", "Se": "Sé"}.get(plain, plain)
    wanted = hiatus or (_ends_open(plain) if from_end == 0 else not _ends_open(plain) if from_end == 1 else True)
    return plain[:place] + _ACCENTED.get(plain[place], plain[place]) + plain[place + 1 :] if wanted else plain


# --- splitting -------------------------------------------------------------------------------------------------------


def _plain(form: str) -> str:
    return form.lower().translate(_ACUTE)


def clitic_lemma(form: str) -> str:
    """The lemma of a clitic, however it's written: that of *CALLATE* and *callaté* is that of *callate*."""
    return CLITICS[_plain(form)][0]


def _host(form: str, clitics: Sequence[str]) -> str:
    """The verb of a form as it's written without its clitics."""
    cut = len(form) - len("".join(clitics))
    host, stressed = form[:cut], _stress(form)
    low = _plain(host)
    if low.endswith("mo") and clitics[0] in ("nos", "se"):  # vámonos: vamos
        host += "s"
    elif clitics[0] == "os" and low[-1:] in tuple("aei"):  # sentaos: sentad
        host += "d"
    return _accentuate(host, min(stressed, len(_nuclei(host)) - 1))


def _clitics(form: str, number: int) -> Optional[List[str]]:
    """The last clitics of a form, so many of them; None if it doesn't end so."""
    low = _plain(form)
    for length in range(min(len(low) - 2, 3 * number), 2 * number - 1, -1):  # los before os
        match = _ORDER.fullmatch(low[-length:])
        found = [part for part in match.groups() if part] if match else []
        if len(found) == number and any(c in "aeiouy" for c in low[:-length]):
            return found
    return None


def split_verb(form: str, *, number: Optional[int] = None, imperative: bool = False) -> Optional[List[str]]:
    """Take the clitics off a verb: *dámelo*, da, me, lo.

    form: The verb with its clitics, if it has any.
    number: How many they are, where that is known; by default as many as an infinitive, a gerund or an imperative
        can have.
    imperative: It's one; otherwise, without a number, only infinitives and gerunds are taken apart.
    Returns the verb as it's written alone, and the clitics; None if it has none.
    """
    for n in [number] if number is not None else [3, 2, 1] if imperative else [1, 2, 3]:
        clitics = _clitics(form, n)
        if clitics is None:
            continue
        cut = len(form) - len("".join(clitics))
        parts = [_host(form, clitics)]
        plain = _plain(form[:cut])
        if number is None and imperative and not _IMPERATIVE.search(plain):
            continue
        if number is None and not imperative:
            long = len(_nuclei(parts[0])) > 1
            if not (_INFINITIVE_OR_GERUND if long else _SHORT_INFINITIVE).search(plain):
                continue
        for clitic in clitics:
            parts.append(form[cut : cut + len(clitic)])
            cut += len(clitic)
        return parts
    return None


def split_token(token: Token) -> List[Word]:
    """The syntactic words of a token, if they are several; an empty list if it's one.

    What the token is said to be decides: a contraction is a preposition or an article; a verb has clitics if its
    features or its lemma have those of pronouns. Of a verb without features, infinitives and gerunds are known by
    their forms.
    """
    low, pos = token.lower_, token.pos_
    if low in _CONTRACTIONS and pos in ("", "ADP", "DET", "SCONJ", "ADV"):
        preposition = _CONTRACTIONS[low]
        article = "EL" if token.text.isupper() else "el"
        return [
            Word(token.text[: len(preposition)], preposition, "ADP", "", ""),
            Word(article, "el", "DET", _ARTICLE, "det"),
        ]
    if pos not in ("VERB", "AUX"):
        return []
    features = token.morph.to_dict()
    lemmas = token.lemma_.split(" ") if token.lemma_ else []
    imperative = "Imp" in features.get("Mood", "").split(",")
    pronominal = "PrepCase" in features or "Prs" in features.get("PronType", "").split(",")
    parts = split_verb(token.text, number=len(lemmas) - 1) if len(lemmas) > 1 else None
    if parts is None and (pronominal or not token.has_morph()):
        parts = split_verb(token.text)
    if parts is None and pronominal:
        parts = split_verb(token.text, imperative=True)
    if parts is None:
        return []
    return [_verb(token, parts[0], lemmas, features, imperative), *_pronouns(parts[1:], features)]


def _verb(token: Token, form: str, lemmas: Sequence[str], features: Dict[str, str], imperative: bool) -> Word:
    kept = {name: features[name] for name in _VERBAL if name in features}
    if imperative:  # its person and number are merged with those of the clitics
        low = form.lower()
        plural = low.endswith(("n", "d", "mos"))
        persons = features.get("Person", "2").split(",")
        kept["Number"] = "Plur" if plural else "Sing"
        kept["Person"] = "1" if low.endswith("mos") else persons[0] if len(persons) == 1 else "2"
    lemma = lemmas[0] if lemmas else ""
    return Word(form, lemma, token.pos_, Morphology.dict_to_feats(kept), "")


def _pronouns(clitics: Sequence[str], features: Dict[str, str]) -> List[Word]:
    """The clitics as pronouns. Before another one, or if the token says so, they are datives."""
    words = []
    for i, form in enumerate(clitics):
        plain = _plain(form)
        lemma, morph = CLITICS[plain]
        own = Morphology.feats_to_dict(morph)
        before_another = i + 1 < len(clitics)
        cases = features.get("Case", "").split(",")
        if before_another or (cases == ["Dat"] and own["Case"] == "Acc"):
            own["Case"] = "Dat"
        if plain == "se" and before_another and clitics[i + 1].lower()[0] == "l":
            own.pop("Reflex", None)  # it stands for le
        elif plain in ("me", "te", "nos", "os") and features.get("Reflex") == "Yes" and not before_another:
            own["Reflex"] = "Yes"
        if own.get("Reflex"):
            dep = "expl:pv"
        else:
            dep = "iobj" if own["Case"] == "Dat" and before_another else "obj"
        words.append(Word(form, lemma, "PRON", Morphology.dict_to_feats(own), dep))
    return words


# --- component -------------------------------------------------------------------------------------------------------


def token_words(token: Token) -> List[Word]:
    """The syntactic words of a token, for ``token._.words``: one, unless `beto_multiwords` found several."""
    stored = token.doc.user_data.get(_KEY, {}).get(str(token.idx))
    if stored:
        return [Word(*word) for word in stored]
    return [Word(token.text, token.lemma_, token.pos_, str(token.morph), "")]


@Language.factory("beto_multiwords", assigns=["token._.words"], requires=["token.pos", "token.morph"])
def make_beto_multiwords(nlp: Language, name: str) -> "Multiwords":
    """Build a `Multiwords`. It has no settings; it stands after the components that set tags, morphology and lemmas."""
    return Multiwords(name)


class Multiwords:
    """Says which syntactic words each token has: ``token._.words``, a list of `Word`.

    name: As for any component.
    """

    def __init__(self, name: str = "beto_multiwords"):
        self.name = name
        if not Token.has_extension("words"):
            Token.set_extension("words", getter=token_words)

    def __call__(self, doc: Doc) -> Doc:
        found: Dict[str, Any] = {}
        for token in doc:
            words = split_token(token)
            if words:
                found[str(token.idx)] = [list(word) for word in words]
        doc.user_data[_KEY] = found
        return doc
