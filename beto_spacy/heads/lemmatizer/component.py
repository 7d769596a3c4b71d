"""Lemmas from what a corpus says of a form, and for other forms from rules and tables: `beto_lemmatizer`.

A trained lemmatizer that reads the encoder is good at what it has seen; of rare forms it makes words that don't exist.
Here a form with a part of speech that the training corpus has gets the lemma it has there; so does a form that has one
lemma only in it, if either part of speech is of a closed class: a tagger's mistake is likelier than a new pronoun. For
all others spaCy's Spanish rules and the tables of spacy-lookups-data are asked, and what they give is checked: an
infinitive must be known, or else it follows from the endings; adjectives follow from their gender and number. A form
that isn't known as its part of speech, but as another, gets the lemma of that: *sufría* tagged as a noun is *sufrir*.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple, Union

import numpy
import srsly
from spacy import util
from spacy.attrs import LEMMA, MORPH, ORTH, POS
from spacy.lang.es.lemmatizer import SpanishLemmatizer
from spacy.language import Language
from spacy.lookups import Lookups, Table, load_lookups
from spacy.pipeline import Pipe
from spacy.tokens import Doc, Token
from spacy.training import Example

from beto_spacy.errors import ProjectError
from beto_spacy.spanish.conjugation import ACUTE, guess, infinitives, participle
from beto_spacy.spanish.emoji import is_emoji
from beto_spacy.spanish.multiwords import clitic_lemma, split_verb

TABLES = ("lemma_rules", "lemma_rules_groups", "lemma_index", "lemma_exc", "lemma_lookup")
_CACHE_SIZE = 50_000
#: Parts of speech that new words have.
_OPEN = ("NOUN", "VERB", "ADJ", "ADV")
_LONGEST_ACRONYM = 5
#: Of a name: van, den, von.
_LONGEST_PARTICLE = 3
_FUTURE = re.compile(r"(.*[aeií]r)(é|ás|á|emos|éis|án|ía|ías|íamos|íais|ían)")
_INFINITIVE = re.compile(r"[a-zñü]*(ar|er|ir|ír)")
#: A verb with enclitics, whatever it was taken for: its accent stands two syllables or more before the end.
_WITH_ENCLITICS = re.compile(r".*[áéíóú][^aeiouáéíóú]*[aeiou]+[^aeiouáéíóú]+[aeiou]+[^aeiouáéíóú]*")
#: What is no form of a verb, whatever it was taken for.
_INTERJECTIONS = frozenset(
    (
        "ah ajá ajám ay bah buah che eh epa guau hola hurra jaja jajaja je jeje ja ji jo nah oh ojalá ole olé puf "
        "tararí uf uh uy"
    ).split()
)
#: A number as it's written in Spanish: 1.500,50. Others keep their form.
_NUMBER = re.compile(r"[-+]?\d{1,3}(\.\d{3})+(,\d+)?|[-+]?\d+,\d+")
#: Of vos, as said from Central America to the River Plate: tenés, decí, mirá.
_VOSEO = re.compile(r"(.+)([áéí])s?")
_INFINITIVES_OF_VOS = {"á": ("ar", "er", "ir"), "é": ("er", "ar"), "í": ("ir", "ír")}
#: As AnCora has them, whose personal pronouns are those of the same person; the rules would make *vo* of *vos*.
_PRONOUNS = {
    **dict.fromkeys(("vos", "vosotras"), "tú"),
    **dict.fromkeys(("nosotras",), "yo"),
    **dict.fromkeys(("aquél", "aquélla", "aquéllos", "aquéllas"), "aquel"),
}
#: Articles are parts of them, as treebanks with merged tokens have it.
_CONTRACTIONS = {"del": "de el", "al": "a el"}
#: Also of ser, which is an auxiliary in treebanks.
_PAST_OF_IR = re.compile(r"fu[ieé]")
#: What a noun, an adjective or a participle may end in.
_LIKE_A_NAME = re.compile(r"((?<![ae]nd)o|[ae]s|(?<![aei]m)os|[ai]da)$")
_OF_ADJECTIVES = ("osa", "iva", "ica", "aria")
_SUPERLATIVE = re.compile(r"(.*)ísim[oa]s?")
#: A Spanish noun doesn't end so: caciqu(e)s, sustituyent(e)s, canj(e)s.
_CUT_TOO_SHORT = re.compile(r"(qu|[bcfgkmpqtv]|[^aeiouáéíóú][dhjlnrsxyz])$")


@Language.factory(
    "beto_lemmatizer",
    assigns=["token.lemma"],
    requires=["token.pos", "token.morph"],
    default_config={"tables": True, "overwrite": True, "scorer": {"@scorers": "spacy.lemmatizer_scorer.v1"}},
    default_score_weights={"lemma_acc": 1.0},
)
def make_beto_lemmatizer(
    nlp: Language, name: str, tables: bool, overwrite: bool, scorer: Optional[Callable]
) -> "BetoLemmatizer":
    """Build a `BetoLemmatizer`. It stands after the components that set parts of speech and features.

    tables: Use the rules and tables of spacy-lookups-data for forms that the training corpus hasn't; without them such
        a form keeps the lemma of an earlier component, or is its own.
    overwrite: Whether lemmas that are there before are replaced.
    scorer: ``spacy.lemmatizer_scorer.v1``.
    """
    return BetoLemmatizer(nlp.vocab, name, tables=tables, overwrite=overwrite, scorer=scorer)


class _KeepsNothing(dict):
    """A dictionary that stays empty."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class BetoLemmatizer(Pipe):
    """Sets the lemma of each token. Nothing of it is trained by gradients: it's complete when it's initialized.

    The lemma of a verb with enclitics has those of the pronouns too: *dámelo*, ``dar yo él``, as merged treebanks have.

    vocab, name: As for any component.
    tables, overwrite, scorer: See `make_beto_lemmatizer`.
    """

    def __init__(
        self,
        vocab: Any,
        name: str = "beto_lemmatizer",
        *,
        tables: bool = True,
        overwrite: bool = True,
        scorer: Optional[Callable] = None,
    ):
        self.vocab, self.name, self.scorer = vocab, name, scorer
        self.tables, self.overwrite = tables, overwrite
        self._seen: Dict[str, str] = {}
        self._single: Dict[str, Tuple[str, bool]] = {}
        self._tables = Lookups()
        self._rules = SpanishLemmatizer(vocab, None, mode="rule")
        self._rules.cache = _KeepsNothing()  # its own has no bound, and there is one here
        self._known: Dict[str, Set[str]] = {}
        # Infinitives of a corpus or of the list of the rules; those of the large table are often rare or none.
        self._common: Set[str] = set()
        self._cache: Dict[Tuple[int, int, int, int], str] = {}

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Optional[Language] = None,
        lookups: Optional[Lookups] = None,
    ) -> None:
        """Remember the lemmas of the examples, and load the tables.

        lookups: The tables; by default those of spacy-lookups-data.
        Raises ProjectError if the tables are wanted and not there.
        """
        counts: Dict[str, Counter] = defaultdict(Counter)
        for example in get_examples():
            for token in example.reference:
                if token.lemma_ and token.pos_:
                    for key in _keys(token):
                        counts[key][token.lemma_] += 1
        best = {key: min(found, key=lambda lemma: (-found[lemma], lemma)) for key, found in counts.items()}
        # What the features say is kept where it differs from what the form and the part of speech say.
        self._set_seen({k: lemma for k, lemma in best.items() if best.get(_shorter(k)) != lemma or _is_short(k)})
        if self.tables:
            self._set_tables(lookups or _load_tables())

    def _set_tables(self, lookups: Lookups) -> None:
        self._tables = lookups
        self._rules.initialize(lookups=_searched_quickly(lookups))
        index, table = lookups.get_table("lemma_index"), lookups.get_table("lemma_lookup")
        known = {pos: set(index.get(pos.lower(), ())) for pos in _OPEN}
        self._common = set(filter(_INFINITIVE.fullmatch, known["VERB"]))
        known["VERB"] = set(filter(_INFINITIVE.fullmatch, table.values())) | self._common
        for key, lemma in self._seen.items():
            pos = key.split("\t")[1]
            if pos in known:
                known[pos].add(lemma.split(" ")[0])
                if pos == "VERB" and _INFINITIVE.fullmatch(lemma.split(" ")[0]):
                    self._common.add(lemma.split(" ")[0])
        self._known = known
        self._cache = {}

    def __call__(self, doc: Doc) -> Doc:
        """Set the lemmas of a document."""
        if not len(doc):
            return doc
        attrs = doc.to_array([ORTH, POS, MORPH, LEMMA])
        found = [self._cache.get(key) for key in map(tuple, attrs.tolist())]
        # Their strings are added each time: those of a memory zone go with it.
        add = self.vocab.strings.add
        lemmas = [add(lemma or self.lemmatize(doc[i])) for i, lemma in enumerate(found)]
        before = attrs[:, 3]
        kept = (before != 0) & (not self.overwrite)
        doc.from_array([LEMMA], numpy.where(kept, before, numpy.asarray(lemmas, dtype="u8")))
        return doc

    def lemmatize(self, token: Token) -> str:
        """The lemma of a token, as its part of speech and its features want it."""
        key = (token.orth, token.pos, token.morph.key, token.lemma)
        lemma = self._cache.get(key)
        if lemma is None:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache = {}
            own = token.text if token.pos_ in ("PROPN", "") else token.lower_
            lemma = self._cache[key] = self._find(token) or token.lemma_ or own
        return lemma

    def _find(self, token: Token) -> str:
        """What the corpus or the tables say; nothing if they don't. An emoji is its own."""
        if is_emoji(token.text):
            return token.text
        for key in _keys(token):
            if key in self._seen:
                return self._seen[key].lower() if token.is_lower else self._seen[key]
        lemma, is_open = self._single.get(token.lower_, ("", True))
        if lemma and token.pos_ != "PROPN" and not (is_open and token.pos_ in _OPEN):
            return lemma
        if not self.tables or not token.pos:
            return ""
        lemma = self._derive(token)
        return lemma if self._is_known(lemma, token) else self._of_another_part(token) or lemma

    def _is_known(self, lemma: str, token: Token) -> bool:
        """Whether the lemma of a token is one of its part of speech, as far as the tables can say."""
        pos = token.pos_
        if pos == "PROPN":
            return not token.is_lower or len(token) <= _LONGEST_PARTICLE
        if pos not in _OPEN:
            return True
        return lemma.split(" ")[0] in self._known[pos] or (pos == "ADJ" and lemma == self._listed(token.lower_))

    def _of_another_part(self, token: Token) -> str:
        """The lemma of a form that has none as its part of speech, but is known as another: a tagger's mistake."""
        low, pos = token.lower_, token.pos_
        if low in self._single:
            return self._single[low][0]
        listed = self._listed(low)
        if pos != "VERB":
            if listed in self._known["VERB"] and not _LIKE_A_NAME.search(low):
                if pos != "ADV" or low.endswith("ndo"):
                    return listed
            parts = split_verb(token.text)
            if not parts and not listed and _WITH_ENCLITICS.fullmatch(low):
                parts = split_verb(token.text, imperative=True)
            if parts:
                lemma = self._with_pronouns(parts, {}, "")
                if lemma.split(" ")[0] in self._known["VERB"] or parts[0].lower().endswith("ea"):
                    return lemma
            of_vos = self._of_vos(low) if not listed and low.endswith("s") else ""
            if of_vos in self._common and not self._is_nominal(low[:-1]):
                return of_vos
        # A woman's name, la ginecóloga, is a noun that tables don't list.
        if pos != "ADJ" and (pos != "NOUN" or not low.endswith("a") or low.endswith(_OF_ADJECTIVES)):
            adjective = self._adjective(low, {}, low)
            if adjective in self._known["ADJ"] or adjective == listed:
                return adjective
        if pos != "NOUN":
            singular = _singular(low, self._is_nominal) if low.endswith("s") else low
            if singular in self._known["NOUN"]:
                return singular
        return ""

    def _listed(self, form: str) -> str:
        return self._tables.get_table("lemma_lookup").get(form, "")

    def _derive(self, token: Token) -> str:
        low, pos = token.lower_, token.pos_
        if pos == "PROPN":
            return token.text
        if pos == "INTJ" or low in _INTERJECTIONS:
            return low
        if pos == "NUM" and any(c.isdigit() for c in low) and not _NUMBER.fullmatch(low):
            return low
        if pos == "PRON" and low in _PRONOUNS:
            return _PRONOUNS[low]
        if pos == "ADP" and low in _CONTRACTIONS:
            return _CONTRACTIONS[low]
        found = self._rules.rule_lemmatize(token)[0].strip()  # a space stands for the pronouns that it doesn't find
        if pos in ("VERB", "AUX"):
            lemma = self._verb(token, found)
            return "ir" if pos == "VERB" and lemma == "ser" and _PAST_OF_IR.match(low) else lemma
        if pos == "ADJ":
            lemma = self._adjective(low, token.morph.to_dict(), found)
            if self._is_known(lemma, token):
                return lemma
            # Both features may have been overlooked: dignas.
            both = self._adjective(low, {"Number": "Plur", "Gender": "Fem"}, found)
            return both if self._is_known(both, token) else lemma
        if pos == "NOUN":
            if any(c.isdigit() for c in low) or (token.text.isupper() and 1 < len(low) <= _LONGEST_ACRONYM):
                return token.text
            if low.endswith("s") and not token.morph.get("Number"):
                singular = next(filter(self._known["NOUN"].__contains__, _singulars(low)), "")
                if singular:
                    return singular
            if low.endswith("s") and found not in self._known["NOUN"]:
                if low in self._known["NOUN"] or low.endswith(("sis", "tis")):  # la dosis, la artritis
                    return low
                if found == low:  # the features say no plural, and there is no such word
                    singular = _singular(low, self._is_nominal)
                    found = singular if self._is_nominal(singular) else low
            if found + "es" == low and _CUT_TOO_SHORT.search(found) and found not in self._known["NOUN"]:
                return found + "e"
        return found

    def _verb(self, token: Token, found: str) -> str:
        features = token.morph.to_dict()
        parts = split_verb(token.text)  # none but an infinitive or a gerund with pronouns
        has_pronouns = "PrepCase" in features or "Prs" in features.get("PronType", "")
        if not parts and has_pronouns and "Imp" in features.get("Mood", "") and not self._of_vos(token.lower_):
            parts = split_verb(token.text, imperative=True)
        known = self._known["VERB"]
        lemma = self._infinitive(token.lower_, str(token.morph), found)
        if parts:
            split = self._with_pronouns(parts, features, found.split(" ")[0])
            return split if split.split(" ")[0] in known or lemma not in known else lemma
        parts = split_verb(token.text, imperative=True) if lemma not in known else None
        if parts:
            split = self._with_pronouns(parts, {}, "")
            is_accented = _WITH_ENCLITICS.fullmatch(token.lower_) is not None
            lemma = split if split.split(" ")[0] in known or is_accented else lemma
        return lemma

    def _with_pronouns(self, parts: Sequence[str], features: Dict[str, str], found: str) -> str:
        host = parts[0].lower()
        verbal = "|".join(f"{name}={features[name]}" for name in ("Mood", "Tense", "VerbForm") if name in features)
        lemma = host if host in self._known["VERB"] else self._infinitive(host, verbal, found)
        if parts[1].lower() == "te" and host.endswith("a") and not lemma.endswith("ar"):
            # Said to tú, it's of the first class: siéntate.
            first = [i for i in infinitives(host, "Mood=Imp") if i.endswith("ar") and i in self._common]
            lemma = first[0] if first else lemma
        return " ".join([lemma, *map(clitic_lemma, parts[1:])])

    def _infinitive(self, form: str, features: str, found: str) -> str:
        """The infinitive of a form without clitics.

        A common verb that the rules have found is right, then the one of an irregular participle, then what the table
        says of the form; after them those that the endings allow. If none is known, it's a regular new verb.
        """
        known, listed = self._known["VERB"], self._listed(form)
        if "VerbForm" not in features or "Part" in features:
            irregular = participle(form)
            if irregular in known:
                return irregular
        proposed = infinitives(form, features)
        if proposed[:1] == ["dar"]:
            return "dar"
        if found in self._common:
            return found
        if form == "sos":
            return "ser"
        future = _FUTURE.fullmatch(form)
        if future and ("Tense=Fut" in features or "Mood=Cnd" in features):
            infinitive = future.group(1)
            for whole in (infinitive, infinitive.replace("í", "i")):
                if whole in known:
                    return whole
        common = [infinitive for infinitive in proposed if infinitive in self._common]
        if listed in self._common or (listed in known and not common):
            return listed
        if common:
            return common[0]
        if found in known:
            return found
        return next((i for i in proposed if i in known), "") or guess(form) or form

    def _of_vos(self, form: str) -> str:
        """The infinitive of a form that goes with vos; empty if it's none."""
        match = _VOSEO.fullmatch(form)
        endings = _INFINITIVES_OF_VOS[match.group(2)] if match else ()
        return next((match.group(1) + e for e in endings if match.group(1) + e in self._known["VERB"]), "")

    def _is_nominal(self, word: str) -> bool:
        return word in self._known["NOUN"] or word in self._known["ADJ"]

    def _adjective(self, form: str, features: Dict[str, str], found: str) -> str:
        known = self._known["ADJ"]
        listed = self._listed(form)

        def exists(word: str) -> bool:
            return word in known or word == listed

        superlative = _SUPERLATIVE.fullmatch(form)
        if superlative and features.get("Degree", "Abs") == "Abs":
            stems = _positive_stems(superlative.group(1))
            positive = next((w for stem in stems for w in (stem + "o", stem + "e", stem) if w in known), "")
            if positive or "Degree" in features:
                return positive or found
        word = form
        for feature, value, other in (("Number", "Plur", _singular), ("Gender", "Fem", _masculine)):
            changed = other(word, exists)
            overlooked = word not in known and changed in known or not exists(word) and exists(changed)
            if features.get(feature) == value or overlooked:
                word = changed
        return found if found in known and word not in known else word

    # --- files ---

    def to_disk(self, path: Union[str, Path], *, exclude: Iterable[str] = tuple()) -> None:
        """Save the component: ``seen.msgpack`` and, if it uses them, the tables."""
        writers: Dict[str, Callable] = {"seen.msgpack": lambda p: srsly.write_msgpack(p, self._seen)}
        if self.tables:
            writers["lookups"] = lambda p: self._tables.to_disk(p)
        util.to_disk(path, writers, exclude)

    def from_disk(self, path: Union[str, Path], *, exclude: Iterable[str] = tuple()) -> "BetoLemmatizer":
        """Load the component."""
        lookups = Lookups()
        readers: Dict[str, Callable] = {"seen.msgpack": lambda p: self._set_seen(srsly.read_msgpack(p))}
        if self.tables:
            readers["lookups"] = lookups.from_disk
        util.from_disk(path, readers, exclude)
        if self.tables:
            self._set_tables(lookups)
        return self

    def to_bytes(self, *, exclude: Iterable[str] = tuple()) -> bytes:
        """Save the component to bytes."""
        writers: Dict[str, Callable] = {"seen": lambda: srsly.msgpack_dumps(self._seen)}
        if self.tables:
            writers["lookups"] = self._tables.to_bytes
        return util.to_bytes(writers, exclude)

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = tuple()) -> "BetoLemmatizer":
        """Load the component from bytes."""
        lookups = Lookups()
        readers: Dict[str, Callable] = {"seen": lambda b: self._set_seen(srsly.msgpack_loads(b))}
        if self.tables:
            readers["lookups"] = lookups.from_bytes
        util.from_bytes(bytes_data, readers, exclude)
        if self.tables:
            self._set_tables(lookups)
        return self

    def _set_seen(self, seen: Dict[str, str]) -> None:
        self._seen = dict(seen)
        lemmas: Dict[str, Set[str]] = defaultdict(set)
        is_open: Dict[str, bool] = defaultdict(bool)
        for key, lemma in self._seen.items():
            form, pos = key.split("\t")[:2]
            if pos != "PROPN":
                lemmas[form].add(lemma)
                is_open[form] |= pos in _OPEN
        # Nothing for a form that has several.
        self._single = {
            form: (next(iter(found)) if len(found) == 1 else "", is_open[form]) for form, found in lemmas.items()
        }
        self._cache = {}


def _keys(token: Token) -> List[str]:
    """What is looked up of a token: with its features, and without. A name's case counts."""
    form = token.text if token.pos_ == "PROPN" else token.lower_
    short = f"{form}\t{token.pos_}"
    return [f"{short}\t{token.morph}", short]


def _shorter(key: str) -> str:
    return "\t".join(key.split("\t")[:2])


def _is_short(key: str) -> bool:
    return key.count("\t") == 1


def _load_tables() -> Lookups:
    try:
        return load_lookups("es", tables=list(TABLES))
    except ValueError as error:
        raise ProjectError(
            "B260",
            "The lemmatizer wants the tables of spacy-lookups-data, and they aren't there.",
            "Install them: pip install 'beto-spacy[lookups]', or set 'tables' to false.",
        ) from error


def _searched_quickly(lookups: Lookups) -> Lookups:
    """The same tables, but with sets where the rules look for a word in a list of thousands."""
    quick = Lookups()
    for name in lookups.tables:
        quick.set_table(name, lookups.get_table(name))
    index = lookups.get_table("lemma_index")
    quick.set_table("lemma_index", Table("lemma_index", {pos: frozenset(words) for pos, words in index.items()}))
    return quick


def _singular(word: str, exists: Callable[[str], bool]) -> str:
    """The singular of an adjective."""
    if word.endswith("és"):
        return word
    if word.endswith("ces"):
        return word[:-3] + "z"
    if word.endswith("eses") and not exists(word[:-1]):
        return word[:-4] + "és"
    if word.endswith("es") and (exists(word[:-2]) or word.endswith(("ales", "iles", "ores"))):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word


def _singulars(word: str) -> Iterator[str]:
    """What the singular of a noun may be, the likelier first."""
    if word.endswith("ces"):
        yield word[:-3] + "z"
    if word.endswith("es") and not _CUT_TOO_SHORT.search(word[:-2]):
        stem = word[:-2]
        yield stem
        yield stem.translate(ACUTE)  # exámenes
        last = max(map(stem.rfind, "aeiou"))
        if stem[-1] in "ns" and last >= 0:
            yield stem[:last] + "áéíóú"["aeiou".index(stem[last])] + stem[last + 1 :]  # jardines
    yield word[:-1]


def _positive_stems(stem: str) -> List[str]:
    """The stem of an adjective from that of its superlative: riqu(ísimo), ric(o)."""
    spellings = [stem]
    for written, plain in (("qu", "c"), ("gu", "g"), ("c", "z"), ("bil", "ble")):
        if stem.endswith(written):
            spellings.append(stem[: -len(written)] + plain)
    return spellings


def _masculine(word: str, exists: Callable[[str], bool]) -> str:
    """The masculine of an adjective in -a: -o, the bare stem (española, tractora), -és or -ón."""
    if not word.endswith("a"):
        return word
    stem = word[:-1]
    if exists(stem + "o"):
        return stem + "o"
    if exists(stem) or stem.endswith("or"):
        return stem
    for ending, accented in (("es", "és"), ("on", "ón"), ("an", "án"), ("in", "ín")):
        if stem.endswith(ending) and (ending == "on" or exists(stem[:-2] + accented)):
            return stem[:-2] + accented
    return stem + "o"
