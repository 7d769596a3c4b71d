"""The Spanish tokenizer: spaCy's `Tokenizer` with our exceptions, prefixes, infixes and suffixes, and one rule more.

A pipeline saves it with its rules, and loads those that it was saved with. An abbreviation keeps its full stop; forms
that are words as well (*no*, *col*, *mar*) aren't in the list. The rules of spaCy see what stands between two spaces.
`SpanishTokenizer` also looks at what follows: a single letter with a full stop is an initial (*J. Pérez*), and at the
end of a line the end of a sentence (*Sexo: H.*), as a unit before a capital is (*12 h. Después*).

What spaCy's lists have as single characters is one class here, and every alternative starts with the characters that it
splits off: regular expressions fail sooner so.
"""

import re
from typing import Any, Callable, Dict, Iterable, List, Set, Tuple

import numpy
import spacy
from spacy.lang.char_classes import (
    ALPHA,
    ALPHA_LOWER,
    ALPHA_UPPER,
    CONCAT_ICONS,
    CONCAT_QUOTES,
    LIST_CURRENCY,
    LIST_PUNCT,
    LIST_QUOTES,
    UNITS,
)
from spacy.lang.es import SpanishDefaults
from spacy.language import Language
from spacy.symbols import NORM, ORTH
from spacy.tokenizer import Tokenizer
from spacy.tokens import Doc

from beto_spacy.spanish.emoji import EMOJI

#: The tokenizer in a config.
TOKENIZER = {"@tokenizers": "beto_spacy.SpanishTokenizer.v1"}

#: Each also with a capital and, if it's longer than most acronyms, in capitals.
_ABBREVIATIONS = """
    admón. admtvo. adj. adv. afmo. alfz. ap. aprox. apdo. arts. art. atte. av. avd. avda. bco. bibl. bldg. blvr. cap.
    caps. cf. cfr. cía. cías. cnel. cód. comp. coord. coords. cra. crta. ctra. cte. cta. ctdad. depto. deptos. dept.
    dcha. dcho. dir. dpto. dptos. dr. dra. dras. dres. dtor. dtora. ed. eds. edit. edo. ej. ejs. esq. etc. excmo. excma.
    expte. ext. fasc. fdo. fig. figs. gob. gral. gte. hnos. hno. hna. hnas. ibíd. ibid. íd. ilmo. ilma. izq. izqda.
    izqdo. izdo. ing. intr. jr. lám. láms. lic. licdo. licda. loc. ltda. ltdo. máx. mín. mons. ms. mss. n.º nro. nros.
    núm. núms. obs. op. pág. págs. pp. párr. párrs. pdte. pdta. pl. pral. prof. profa. profs. pról. prov. pza. plza.
    pzo. rte. rpto. rev. rvdo. rvda. reg. sdad. secc. sgte. sgtes. sgto. sig. sigs. sra. sras. sres. sr. srta. srtas.
    sto. sta. subdir. supl. sust. telf. tel. tels. tte. tfno. tlf. tlfno. trad. ud. uds. univ. urb. vd. vds. vid. vol.
    vols. vs. ss. aa. c.p. d.n.i. p.ej. p.d. a.c. d.c. s.a. s.l. s.r.l. s.l.u. c.i.f. n.i.f.
""".split()
#: As they are written, for the pairs (*JJ. OO.*, *Bs. As.*, *EE. UU.*) and forms that are words in lower case.
_EXACT = """
    JJ. OO. BB. CC. DD. EE. FF. GG. HH. LL. MM. NN. RR. SS. TT. UU. VV. AA. UU.EE. EE.UU. Bs. As. Bs.As. JJ.OO. RR.HH.
    CC.OO. FF.AA. FF.CC. CC.AA. Mr. Mrs. Ms. Sn. Fr. St. Col. Cmdt. Dña. Gen. Pdte. Cap. Bros. Inc. s/n s/f km/h m/s
""".split()
#: Emoticons of spaCy's list that are far oftener the end of a bracket.
_BRACKETS = ["):", "8)", "(8"]


def _is_single(sign: str) -> bool:
    return len(sign.lstrip("\\")) == 1


def _class_of(*lists: Iterable[str]) -> str:
    """The single characters of spaCy's lists, as the inside of a class."""
    return "".join(sorted({re.escape(sign[-1]) for signs in lists for sign in signs if _is_single(sign)}))


_MARKS = _class_of(LIST_PUNCT, LIST_QUOTES, "—–") + CONCAT_ICONS
_CURRENCY = "|".join([f"[{_class_of(LIST_CURRENCY)}]", *(sign for sign in LIST_CURRENCY if not _is_single(sign))])
#: *15,5%* is one token, as in AnCora.
_UNITS = "|".join(unit for unit in UNITS.split("|") if unit != "%")
_DOTS = r"\.\.+"

_PREFIX = rf"\A(?:{EMOJI}|#(?!\w)|[{_MARKS.replace(re.escape('#'), '')}§%=]|{_DOTS}|\+(?![0-9])|{_CURRENCY})"

#: What a full stop that is a token may follow.
_BEFORE_STOP = "|".join(
    [
        rf"(?<=[{ALPHA_LOWER}0-9ºª°%²+\-{CONCAT_QUOTES}{_class_of(LIST_PUNCT)}—–]\.)",
        rf"(?<=[{ALPHA_UPPER}0-9ºª/][{ALPHA_UPPER}]\.)",
        r"(?<=°[FfCcKk]\.)",
    ]
)
_SUFFIX = "|".join(
    [
        rf"(?:{EMOJI}|[{_MARKS}]|{_DOTS}|\.(?:{_BEFORE_STOP})|\+(?<=[0-9]\+))\Z",
        rf"(?<=[0-9])(?:{_CURRENCY}|{_UNITS})\Z",
        r"(?<=[0-9]:[0-5][0-9])hs?\Z",
    ]
)
_OPEN, _CLOSE = r"(\[{¿¡«“", r")\]}»”"
_INFIX = "|".join(
    [
        EMOJI,
        rf"[{CONCAT_ICONS}…—]|{_DOTS}",
        rf"\.(?<=[{ALPHA_LOWER}{CONCAT_QUOTES}]\.)(?=[{ALPHA_UPPER}{CONCAT_QUOTES}])",
        rf",(?<=[{ALPHA}0-9{_CLOSE}],)(?=[{ALPHA}{_OPEN}—])",
        rf";(?<=[{ALPHA}0-9{_CLOSE}];)(?=[{ALPHA}{_OPEN}—])",
        rf"[:<>=](?<=[{ALPHA}0-9][:<>=])(?=[{ALPHA}])",
        rf":(?<=[{ALPHA})\]]:)(?=[0-9{_OPEN}+])",
        r"[+*^](?<=[0-9][+*^])(?=[0-9-])",
        rf"[?!](?<=[{ALPHA}][?!])(?=[¿¡{ALPHA_UPPER}])",
        r"[¿¡](?<=[?!][¿¡])",
        rf"–(?<=[{ALPHA}.,;:?!…]–)(?=[{ALPHA}¿¡])",
        rf"[{_OPEN}](?<=[{ALPHA}0-9.,;:%][{_OPEN}])(?=[{ALPHA}0-9])",
        rf"[{_CLOSE}](?<=[{ALPHA}0-9.%][{_CLOSE}])(?=[{ALPHA}0-9,;:.])",
        r"[-/](?<=[A-Za-z][-/])(?=[0-9]{5})",
        rf"-(?<=[0-9]{{5}}-)(?=[{ALPHA}])",
    ]
)
_TAG = r"[#@]\w+(?:[.\-]\w+)*\Z"

#: The full stop of a single letter at the end of a line, and that of a unit before what starts a sentence.
_LINE_END = r"(?<![\w.]\w\.)(?<=[^\W\d_]\.)(?=[^\S\n]*(?:\n|\Z))"
_UNIT_END = rf"(?<=[0-9] [hmgl]\.)(?=\s+[{ALPHA_UPPER}¿¡«“\"—])"
_ENDS = re.compile(rf"\.(?:{_LINE_END}|{_UNIT_END})")


def _exceptions() -> Dict[str, List[Dict[int, str]]]:
    """What stays together, spaCy's own list among it."""
    exceptions: Dict[str, Any] = dict(SpanishDefaults.tokenizer_exceptions)
    for form in _BRACKETS:
        exceptions.pop(form, None)
    for form in _ABBREVIATIONS:
        for spelling in (form, form[0].upper() + form[1:], *([form.upper()] if len(form) > 3 else [])):
            exceptions.setdefault(spelling, [{ORTH: spelling}])
    for form in _EXACT:
        exceptions.setdefault(form, [{ORTH: form}])
    return {form: parts for form, parts in exceptions.items() if " " not in form}


class SpanishTokenizer(Tokenizer):
    """spaCy's tokenizer; a letter that ends a line and a unit that ends a sentence give their full stop away."""

    def __call__(self, text: str) -> Doc:
        """Make a document of a text; its text is the same."""
        doc = super().__call__(text)
        ends = _find_ends(text)
        return _split(doc, ends) if ends else doc

    def explain(self, text: str) -> List[Tuple[str, str]]:
        """The rule that made each token, as spaCy's tokenizer tells it; END for a full stop split off there."""
        ends, position, result = _find_ends(text), 0, []
        for rule, token in super().explain(text):
            position = text.index(token, position) + len(token)
            if len(token) == 2 and position - 1 in ends:
                result += [(rule, token[0]), ("END", token[1])]
            else:
                result.append((rule, token))
        return result


def _find_ends(text: str) -> Set[int]:
    return {match.start() for match in _ENDS.finditer(text)}


def _split(doc: Doc, ends: Set[int]) -> Doc:
    """A copy of a document in which the full stops at `ends` are tokens of their own."""
    words: List[str] = []
    spaces: List[bool] = []
    norms: List[int] = []
    stop = doc.vocab["."].norm
    for token in doc:
        if len(token) == 2 and token.idx + 1 in ends:
            words += token.text
            spaces.append(False)
            norms += [doc.vocab[token.text[0]].norm, stop]
        else:
            words.append(token.text)
            norms.append(token.norm)
        spaces.append(bool(token.whitespace_))
    parts = Doc(doc.vocab, words=words, spaces=spaces)
    return parts.from_array([NORM], numpy.array(norms, dtype="uint64").reshape(-1, 1))


def blank_pipeline(lang: str = "es") -> Language:
    """An empty pipeline that tokenizes; Spanish with our tokenizer. Raises ImportError for an unknown language."""
    return spacy.blank(lang, config={"nlp": {"tokenizer": TOKENIZER}} if lang == "es" else {})


def make_spanish_tokenizer() -> Callable[[Language], Tokenizer]:
    """Build the tokenizer of Spanish text: `beto_spacy.SpanishTokenizer.v1`."""

    def make(nlp: Language) -> Tokenizer:
        return SpanishTokenizer(
            nlp.vocab,
            rules=_exceptions(),
            prefix_search=re.compile(_PREFIX).search,
            suffix_search=re.compile(_SUFFIX).search,
            infix_finditer=re.compile(_INFIX).finditer,
            token_match=re.compile(_TAG).match,
            url_match=SpanishDefaults.url_match,
        )

    return make
