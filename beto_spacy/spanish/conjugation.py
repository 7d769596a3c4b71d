"""Which infinitives a form of a verb can belong to, by the endings and the spelling of the Spanish conjugations.

`infinitives` undoes what conjugation does: endings of the three classes (those of *vos* among them), changes of
spelling (*saqué*, *llegué*, *empecé*), diphthongs (*pienso*, *vuelvo*), raised vowels (*pido*) and accents (*envío*).
It proposes, and knows no verbs: who asks chooses among the proposals those that exist. `guess` is for verbs that nobody
knows: new verbs are of the first class. Strong stems (*supe*, *hago*) are a matter of tables.
"""

import re
from typing import Dict, Iterator, List, Tuple

#: Vowels without their accents.
ACUTE = str.maketrans("áéíóú", "aeiou")
_VOWELS = "aeiouáéíóúü"
_WEAK = re.compile(r"[aeiouáéíóúü](?=[^aeiouáéíóúü]*$)")

#: Endings, without those that are the infinitive and more (the future), as (features, endings). Empty features fit any.
_ENDINGS: Dict[str, Tuple[Tuple[str, str], ...]] = {
    "ar": (
        ("Tense=Pres", "o as a amos áis an ás e es emos éis en és"),
        ("Mood=Imp", "a ad á e en emos"),
        ("Tense=Past", "é aste ó amos asteis aron"),
        ("Tense=Imp", "aba abas ábamos abais aban ara aras áramos arais aran ase ases ásemos aseis asen"),
        ("VerbForm=Ger", "ando"),
        ("VerbForm=Part", "ado ada ados adas"),
    ),
    "er": (
        ("Tense=Pres", "o es e emos éis en és a as amos áis an ás"),
        ("Mood=Imp", "e ed é a an amos"),
        ("Tense=Past", "í iste ió imos isteis ieron yó yeron íste ímos"),
        (
            "Tense=Imp",
            "ía ías íamos íais ían iera ieras iéramos ierais ieran iese ieses iésemos ieseis iesen yera yeras yeran",
        ),
        ("VerbForm=Ger", "iendo yendo"),
        ("VerbForm=Part", "ido ida idos idas ído ída ídos ídas"),
    ),
    "ir": (
        ("Tense=Pres", "o es e imos ís en a as amos áis an ás"),
        ("Mood=Imp", "e id í a an amos"),
        ("Tense=Past", "í iste ió imos isteis ieron yó yeron ó eron"),
        (
            "Tense=Imp",
            "ía ías íamos íais ían iera ieras iéramos ierais ieran iese ieses iésemos ieseis iesen yera yeras yeran",
        ),
        ("VerbForm=Ger", "iendo yendo endo"),
        ("VerbForm=Part", "ido ida idos idas ído ída ídos ídas"),
    ),
}
#: Dar goes like a verb in -er in the past, and in the tenses that are made from it. (Di is also of decir.)
_PAST_OF_DAR = re.compile(r"d(iste|io|imos|isteis|ieron|ier(?:a|as|an|ais)|iéramos|ies(?:e|es|en|eis)|iésemos)")
_FUTURE = re.compile(r"(.+[aei]r)(é|ás|á|emos|éis|án|ía|ías|íamos|íais|ían)")
#: Participles that don't end as the regular ones do, by what the infinitive ends in.
_PARTICIPLES = {
    "abiert": "abrir", "cubiert": "cubrir", "dich": "decir", "escrit": "escribir", "scrit": "scribir", "frit": "freír",
    "hech": "hacer", "fech": "facer", "impres": "imprimir", "muert": "morir", "puest": "poner", "rot": "romper",
    "suelt": "solver", "vist": "ver", "vuelt": "volver",
}  # fmt: skip
_PARTICIPLE = re.compile(rf"(|[a-z]*?)({'|'.join(sorted(_PARTICIPLES, key=len, reverse=True))})(?:o|a|os|as)")


def participle(form: str) -> str:
    """The infinitive of an irregular participle, *roto*, *descubierta*; empty if the form doesn't look like one.

    form: In lower case. A prefix is kept, whether or not there is such a verb.
    """
    match = _PARTICIPLE.fullmatch(form)
    return match.group(1) + _PARTICIPLES[match.group(2)] if match else ""


def infinitives(form: str, features: str = "") -> List[str]:
    """Propose infinitives, the likelier first: regular spelling, then changes of it, then of vowels.

    form: A finite form, gerund or participle without clitics, in lower case.
    features: Morphological features, ``Mood=Ind|Tense=Pres``. Those endings that they exclude are left out; features
        that say nothing of tense or form of the verb exclude none.
    Returns infinitives of which each may exist or not.
    """
    found: Dict[str, int] = {}
    own = dict(part.split("=", 1) for part in features.split("|") if "=" in part)
    future = _FUTURE.fullmatch(form)
    if future and _fits("Tense=Fut", own):
        found[future.group(1)] = 0
    if _PAST_OF_DAR.fullmatch(form) and (_fits("Tense=Past", own) or _fits("Tense=Imp", own)):
        found["dar"] = -1
    for conjugation, groups in _ENDINGS.items():
        for feature, endings in groups:
            if not _fits(feature, own):
                continue
            for ending in endings.split():
                stem = form[: -len(ending)]
                if form.endswith(ending) and stem:
                    for rank, changed in _stems(stem, ending, conjugation):
                        infinitive = changed + conjugation
                        found[infinitive] = min(rank, found.get(infinitive, rank))
    return sorted(found, key=lambda infinitive: found[infinitive])


def guess(form: str) -> str:
    """The regular infinitive of a verb that nobody knows; empty if the form ends like none.

    form: In lower case, without clitics.
    """
    if form.endswith(("ar", "er", "ir", "ír")):
        return form
    future = _FUTURE.fullmatch(form)
    if future and future.group(1).endswith("ar"):
        return future.group(1)
    longest: Dict[str, Tuple[int, str]] = {}
    for conjugation, groups in _ENDINGS.items():
        for _, endings in groups:
            for ending in endings.split():
                stem = form[: -len(ending)]
                # Without a vowel it's no stem: che.
                if form.endswith(ending) and len(stem) > 1 and any(c in _VOWELS for c in stem):
                    changed = min(_stems(stem, ending, conjugation))[1].translate(ACUTE)
                    longest[conjugation] = max(longest.get(conjugation, (0, "")), (len(ending), changed + conjugation))
    if "ar" in longest and longest["ar"][0] >= max(length for length, _ in longest.values()):
        return longest["ar"][1]
    if future:
        return future.group(1)
    if "er" in longest and longest["er"][1].endswith("ecer"):
        return longest["er"][1]
    return max(longest.values())[1] if longest else ""


def _fits(feature: str, own: Dict[str, str]) -> bool:
    """Whether a form of that tense, mood or kind can have the features."""
    form, mood, tense = own.get("VerbForm", ""), own.get("Mood", ""), own.get("Tense", "")
    if feature.startswith("VerbForm="):
        return form == feature[9:] if form else not mood and not tense
    if form in ("Ger", "Part", "Inf"):
        return False
    if feature == "Tense=Fut":
        return mood == "Cnd" or tense == "Fut" or not (mood or tense)
    if mood == "Cnd" or tense == "Fut":
        return False
    if feature == "Mood=Imp":
        return "Imp" in mood or not mood
    if not tense or "Imp" in mood:
        return True
    return f"Tense={tense}" == feature


def _stems(stem: str, ending: str, conjugation: str) -> Iterator[Tuple[int, str]]:
    """The stems that the infinitive may have, each with how far it is from what's written."""
    for rank, spelled in _spellings(stem, ending[0].translate(ACUTE), conjugation):
        yield rank, spelled
        for changed in _vowels(spelled, conjugation):
            yield rank + 2, changed


def _spellings(stem: str, vowel: str, conjugation: str) -> Iterator[Tuple[int, str]]:
    """The spellings of a stem before the vowel of its infinitive: saqu(é), sac(ar)."""
    front = vowel in "ei"
    if conjugation == "ar" and front:
        for written, plain in (("qu", "c"), ("gü", "gu"), ("gu", "g"), ("c", "z")):
            if stem.endswith(written):
                yield 0, stem[: -len(written)] + plain
                return
    if conjugation != "ar" and not front:
        for written, plain in (("zc", "c"), ("j", "g"), ("z", "c"), ("g", "gu")):
            if stem.endswith(written):
                yield 1, stem[: -len(written)] + plain
                if written in ("zc", "z"):
                    return
    if conjugation != "ar" and stem.endswith("y"):
        yield 1, stem[:-1]  # construyo
    if conjugation == "ir" and stem.endswith("j") and vowel in "oe":
        yield 3, stem[:-1] + "c"  # produjeron
    if conjugation != "ar" and stem.endswith("g"):
        yield 3, stem[:-1]  # pongo, salgo
    yield 0, stem


def _vowels(stem: str, conjugation: str) -> Iterator[str]:
    """Stems with the vowel that the infinitive may have in the last syllable."""
    if stem.endswith(("gu", "qu")):  # a silent u: sigu
        for changed in _vowels(stem[:-1], conjugation):
            yield changed + "u"
    for written, plain in (("ie", "e"), ("ié", "e"), ("ue", "o"), ("ué", "o"), ("üe", "o"), ("hue", "o")):
        at = stem.rfind(written)
        if at >= 0 and not any(c in _VOWELS for c in stem[at + len(written) :]):
            before = stem[:at]
            yield before + plain + stem[at + len(written) :]
            if written == "ue":
                yield before + "u" + stem[at + 2 :]
            if written == "ie":
                yield before + "i" + stem[at + 2 :]
    match = _WEAK.search(stem)
    if match:
        at, vowel = match.start(), match.group()
        if vowel in "áéíóú":
            yield stem[:at] + vowel.translate(ACUTE) + stem[at + 1 :]
        elif conjugation == "ir" and vowel in "iu":
            yield stem[:at] + {"i": "e", "u": "o"}[vowel] + stem[at + 1 :]
