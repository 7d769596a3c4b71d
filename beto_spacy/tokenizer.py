"""The Spanish tokenizer: spaCy's `Tokenizer` with exceptions, prefixes, infixes and suffixes of our own.

A pipeline saves it with its rules, and loads those that it was saved with. An abbreviation keeps its full stop; that's
why forms that are words as well (*no*, *col*, *mar*) aren't in the list, and why a unit (*12 h.*, *180 ºC.*) gives its
stop away. The rules of spaCy see what stands between two spaces. `SpanishTokenizer` also sees where a line ends: a
single letter with a full stop is an initial (*J. Pérez*), and at the end of a line the end of a sentence (*Sexo: H.*).
"""

import re
from typing import Any, Callable, Dict, List, Set, Tuple

import numpy
import spacy
from spacy import util
from spacy.lang.char_classes import ALPHA, ALPHA_UPPER
from spacy.lang.es import SpanishDefaults
from spacy.language import Language
from spacy.symbols import NORM, ORTH
from spacy.tokenizer import Tokenizer
from spacy.tokens import Doc

from .emoji import EMOJI

#: Each also with a capital and in capitals.
_ABBREVIATIONS = """
    admón. admtvo. adj. adv. afmo. alfz. ap. aprox. apdo. arts. art. atte. av. avd. avda. bco. bibl. bldg. blvr. cap. caps.
    cf. cfr. cía. cías. cnel. cod. cód. comp. coord. coords. cra. crta. ctra. cte. cta. ctdad. depto. deptos. dept. dcha.
    dcho. dir. dpto. dptos. dr. dra. dras. dres. dtor. dtora. ed. eds. edit. edo. ej. ejs. esq. etc. excmo. excma. expte.
    ext. fasc. fdo. fig. figs. gob. gral. gte. hnos. hno. hna. hnas. ibíd. ibid. íd. ilmo. ilma. izq. izqda. izqdo. izdo.
    ing. intr. jr. lám. láms. lic. licdo. licda. loc. ltda. ltdo. máx. mín. mons. ms. mss. n.º nro. nros. núm. núms. obs.
    op. pág. págs. pp. párr. párrs. pdte. pdta. pl. pral. pref. prof. profa. profs. pról. prov. pza. plza. pzo. rte. rpto.
    rev. rvdo. rvda. reg. sdad. secc. sgte. sgtes. sgto. sig. sigs. sra. sras. sres. sr. srta. srtas. sto. sta. subdir.
    supl. sust. telf. tel. tels. tte. tfno. tlf. tlfno. trad. ud. uds. univ. urb. vd. vds. vid. vol. vols. vs. ss. aa.
    c.p. d.n.i. p.ej. p.d. a.c. d.c. s.a. s.l. s.r.l. s.l.u. c.i.f. n.i.f.
""".split()
#: As they are written, for the pairs (*JJ. OO.*, *Bs. As.*, *EE. UU.*) and forms that are words in lower case.
_EXACT = """
    JJ. OO. BB. CC. DD. EE. FF. GG. HH. LL. MM. NN. RR. SS. TT. UU. VV. AA. UU.EE. EE.UU. Bs. As. Bs.As. JJ.OO. RR.HH.
    CC.OO. FF.AA. FF.CC. CC.AA. Mr. Mrs. Ms. Sn. Fr. St. Col. Cmdt. Dña. Gen. Pdte. Cap. Bros. Inc. Co.
""".split()
_ALONE = "s/n s/f km/h m/s".split()
#: Single letters that are units first of all: spaCy's lists have them with a full stop.
_UNITS = ["h.", "m.", "g.", "l."]
#: Emoticons of spaCy's list that are far oftener the end of a bracket.
_BRACKETS = ["):", "8)", "(8"]
_OPEN, _CLOSE = r"[(\[{¿¡«“]", r"[)\]}»”]"
_PREFIXES = [r"[#@](?=\W)"]
_INFIXES = [
    r"[—]|(?<=[{a}.,;:?!…])–(?=[{a}¿¡])".format(a=ALPHA),
    rf"(?<=[{ALPHA}0-9.,;:%]){_OPEN}(?=[{ALPHA}0-9])",
    rf"(?<=[{ALPHA}0-9.%]){_CLOSE}(?=[{ALPHA}0-9,;:.])",
    rf"(?<=[{ALPHA}0-9)\]»”])[,;](?=[{ALPHA}¿¡«“(—])",
    rf"(?<=[{ALPHA})\]]):(?=[0-9(\[«“+])",
    r"(?<=[A-Za-z])[-/](?=[0-9]{5})",
    rf"(?<=[0-9]{{5}})-(?=[{ALPHA}])",
]
#: The full stop of a single letter at the end of a line.
_LETTER_AT_END = re.compile(r"\.(?<![\w.]\w\.)(?<=[^\W\d_]\.)(?=[^\S\n]*(?:\n|\Z))")
TOKENIZER = {"@tokenizers": "beto_spacy.SpanishTokenizer.v1"}
_SUFFIXES = [
    r"(?<=[0-9][ºª°])\.",
    r"(?<=[º°][CFK])\.",
    r"(?<=[0-9]:[0-5][0-9])(?:hs|h)",
    r"(?<=[0-9])\.",
    rf"(?<=[0-9ºª/][{ALPHA_UPPER}])\.",
]


def _spellings(form: str) -> List[str]:
    return [form, form[0].upper() + form[1:], form.upper()]


def _exceptions() -> Dict[str, List[Dict[int, str]]]:
    """What stays together, spaCy's own list among it."""
    exceptions: Dict[str, Any] = dict(SpanishDefaults.tokenizer_exceptions)
    for form in (*_UNITS, *_BRACKETS):
        exceptions.pop(form, None)
    for form in (*(s for a in _ABBREVIATIONS for s in _spellings(a)), *_EXACT):
        exceptions.setdefault(form, [{ORTH: form}])
    for form in (s for a in _ALONE for s in _spellings(a)):
        exceptions.setdefault(form, [{ORTH: form}])
    return {form: parts for form, parts in exceptions.items() if " " not in form}


class SpanishTokenizer(Tokenizer):
    """spaCy's tokenizer, in which a single letter at the end of a line gives its full stop away."""

    def __call__(self, text: str) -> Doc:
        """Make a document of a text; its text is the same."""
        doc = super().__call__(text)
        ends = _find_ends(text)
        return _split(doc, ends) if ends else doc

    def explain(self, text: str) -> List[Tuple[str, str]]:
        """The rule that made each token, as spaCy's tokenizer tells it; LINE-END for a full stop split off there."""
        ends, position, result = _find_ends(text), 0, []
        for rule, token in super().explain(text):
            position = text.index(token, position) + len(token)
            if len(token) == 2 and position - 1 in ends:
                result += [(rule, token[0]), ("LINE-END", token[1])]
            else:
                result.append((rule, token))
        return result


def _find_ends(text: str) -> Set[int]:
    return {match.start() for match in _LETTER_AT_END.finditer(text)}


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
        defaults = SpanishDefaults
        prefixes = [EMOJI, *_PREFIXES, *(p for p in defaults.prefixes if p != "#")]
        suffixes = [EMOJI, *_SUFFIXES, *defaults.suffixes]
        infixes = [EMOJI, *_INFIXES, *(i.replace("[:<>=/]", "[:<>=]") for i in defaults.infixes)]
        return SpanishTokenizer(
            nlp.vocab,
            rules=_exceptions(),
            prefix_search=util.compile_prefix_regex(prefixes).search,
            suffix_search=util.compile_suffix_regex(suffixes).search,
            infix_finditer=util.compile_infix_regex(infixes).finditer,
            token_match=re.compile(r"[#@]\w+(?:[.\-]\w+)*\Z").match,
            url_match=defaults.url_match,
        )

    return make
