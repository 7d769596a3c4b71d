"""The Spanish tokenizer: spaCy's `Tokenizer` with exceptions, prefixes, infixes and suffixes of our own.

It's spaCy's own class, so a pipeline saves and loads it as any other, and keeps the rules that it was saved with.
An abbreviation keeps its full stop, also at the end of a sentence; that's why forms that are words as well (*no*, *col*,
*mar*) aren't in the list, and why a unit (*12 h.*, *180 ºC.*) gives its stop away.
"""

import re
from typing import Any, Callable, Dict, List

from spacy import util
from spacy.lang.char_classes import ALPHA, LIST_ICONS
from spacy.lang.es import SpanishDefaults
from spacy.language import Language
from spacy.symbols import ORTH
from spacy.tokenizer import Tokenizer

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
    JJ. OO. BB. CC. DD. EE. FF. GG. HH. LL. MM. NN. PP. RR. SS. TT. UU. VV. AA. UU.EE. EE.UU. Bs. As. Bs.As. JJ.OO. RR.HH.
    CC.OO. FF.AA. FF.CC. CC.AA. Mr. Mrs. Ms. Sn. Fr. St. Col. Cmdt. Dña. Gen. Pdte. Cap. Bros. Inc. Co.
""".split()
_ALONE = "y/o o/y c/u s/n c/c c/a a/c e/o p/ej s/f km/h m/s".split()
#: Single letters that are units first of all: spaCy's lists have them with a full stop.
_UNITS = ["h.", "m.", "g.", "l."]
_OPEN, _CLOSE = r"[(\[{¿¡«“]", r"[)\]}»”]"
_PREFIXES = [r"[#@](?=\W)"]
_INFIXES = [
    r"[—]|(?<=[{a}.,;:?!…])–(?=[{a}¿¡])".format(a=ALPHA),
    rf"(?<=[{ALPHA}0-9.,;:%]){_OPEN}(?=[{ALPHA}0-9])",
    rf"(?<=[{ALPHA}0-9.%]){_CLOSE}(?=[{ALPHA}0-9,;:.])",
    rf"(?<=[{ALPHA}0-9)\]»”])[,;](?=[{ALPHA}¿¡«“(—])",
    rf"(?<=[{ALPHA})\]]):(?=[0-9(\[«“+])",
    r"(?<=\b(?:1\d|20)\d\d)/(?=(?:1\d|20)\d\d\b)",
]
_SUFFIXES = [r"(?<=[0-9][ºª°])\.", r"(?<=[º°][CFK])\.", r"(?<=[0-9]:[0-5][0-9])(?:hs|h)", r"(?<=[0-9])\."]


def _spellings(form: str) -> List[str]:
    return [form, form[0].upper() + form[1:], form.upper()]


def _exceptions() -> Dict[str, List[Dict[int, str]]]:
    """What stays together, spaCy's own list among it."""
    exceptions: Dict[str, Any] = dict(SpanishDefaults.tokenizer_exceptions)
    for unit in _UNITS:
        exceptions.pop(unit, None)
    for form in (*(s for a in _ABBREVIATIONS for s in _spellings(a)), *_EXACT):
        exceptions.setdefault(form, [{ORTH: form}])
    for form in (s for a in _ALONE for s in _spellings(a)):
        exceptions.setdefault(form, [{ORTH: form}])
    return {form: parts for form, parts in exceptions.items() if " " not in form}


def make_spanish_tokenizer() -> Callable[[Language], Tokenizer]:
    """Build the tokenizer of Spanish text: `beto_spacy.SpanishTokenizer.v1`."""

    def make(nlp: Language) -> Tokenizer:
        defaults = SpanishDefaults
        prefixes = [EMOJI, *_PREFIXES, *(p for p in defaults.prefixes if p != "#")]
        suffixes = [EMOJI, *_SUFFIXES, *defaults.suffixes]
        infixes = [EMOJI, *_INFIXES, *defaults.infixes]
        return Tokenizer(
            nlp.vocab,
            rules=_exceptions(),
            prefix_search=util.compile_prefix_regex(prefixes).search,
            suffix_search=util.compile_suffix_regex(suffixes).search,
            infix_finditer=util.compile_infix_regex(infixes).finditer,
            token_match=re.compile(r"[#@]\w+(?:[.\-]\w+)*").fullmatch,
            url_match=defaults.url_match,
        )

    return make
