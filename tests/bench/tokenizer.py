"""How well tokenizers agree with corpora: spaCy's for Spanish and ours, side by side.

For corpora with tokens, precision, recall and F1 of tokens by their characters; for corpora with entities on running
text, the share whose ends are ends of tokens. With `--text` also the speed, in turns, in CPU time. Not a test: run it
as a script.

    python tests/bench/tokenizer.py es_ancora-ud-dev.conllu esp.testa meddocan.tar.xz --text TEXT --output FILE
"""

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path

import spacy

from beto_spacy.corpora.reader import group_docs, record_to_doc
from beto_spacy.formats.records import detect_format, read_records
from beto_spacy.spanish.tokenizer import blank_pipeline

SENTENCES = 10


def spans_of(doc):
    return {(token.idx, token.idx + len(token)) for token in doc if not token.is_space}


def shown(text, start, end):
    return f"{text[max(0, start - 12) : start]}⟦{text[start:end]}⟧{text[end : end + 12]}"


def read(path, nlp):
    """The gold tokens or the entities of a corpus: (text, spans, whether they are tokens)."""
    options = {"repair": True} if detect_format(path) == "iob" else {}
    records = list(read_records(path, on_problem=lambda problem: None, **options))
    if records[0].words is None:
        return [(record.text, {(start, end) for start, end, _ in record.entities}, False) for record in records]
    docs = (record_to_doc(record, nlp, on_problem=lambda problem: None, trailing_space=True) for record in records)
    grouped = group_docs(docs, SENTENCES, newdocs=[record.newdoc for record in records])
    return [(doc.text, spans_of(doc), True) for doc in grouped]


def score(tokenizer, corpus, misses):
    """Token scores, or the share of entities that fit, times 100; what is missed is counted in `misses`."""
    gold = found = agree = 0
    for text, spans, are_tokens in corpus:
        tokens = spans_of(tokenizer(text))
        gold += len(spans)
        if are_tokens:
            found += len(tokens)
            agree += len(tokens & spans)
            misses.update(text[start:end] for start, end in tokens - spans)
        else:
            starts, ends = {start for start, _ in tokens}, {end for _, end in tokens}
            fit = {(start, end) for start, end in spans if start in starts and end in ends}
            agree += len(fit)
            misses.update(shown(text, *span) for span in spans - fit)
    if not corpus[0][2]:
        return {"entities": gold, "fit": round(100 * agree / gold, 2)}
    precision, recall = 100 * agree / found, 100 * agree / gold
    f1 = 200 * agree / (found + gold)
    return {"tokens": gold, "precision": round(precision, 3), "recall": round(recall, 3), "f1": round(f1, 3)}


def speeds(tokenizers, texts, runs):
    """Median CPU seconds over the texts, each tokenizer in turn, and the median ratio to the first."""
    seconds = {name: [] for name in tokenizers}
    for run in range(runs):
        for name in list(tokenizers)[:: 1 if run % 2 else -1]:
            start = time.process_time()
            for text in texts:
                tokenizers[name](text)
            seconds[name].append(time.process_time() - start)
    first = next(iter(tokenizers))
    result = {"characters": sum(map(len, texts)), "runs": runs}
    for name, taken in seconds.items():
        ratio = statistics.median(own / base for own, base in zip(taken, seconds[first]))
        result[name] = {"seconds": round(statistics.median(taken), 3), "ratio": round(ratio, 3)}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpora", type=Path, nargs="*")
    parser.add_argument("--text", type=Path, help="Running text to measure the speed on, a document a line")
    parser.add_argument("--runs", type=int, default=7, help="Rounds of the speed, one of each tokenizer")
    parser.add_argument("--misses", type=int, default=0, help="How many of the commonest misses to print")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    pipelines = {"spacy": spacy.blank("es"), "ours": blank_pipeline("es")}
    report = {}
    for path in arguments.corpora:
        corpus = read(path, pipelines["spacy"])
        missed = {name: Counter() for name in pipelines}
        report[path.name] = {name: score(nlp.tokenizer, corpus, missed[name]) for name, nlp in pipelines.items()}
        print(path.name, json.dumps(report[path.name]))
        if arguments.misses:
            for name, other in (("ours", "spacy"), ("spacy", "ours")):
                only = missed[name] - missed[other]
                print(f"  missed by {name} only:", only.most_common(arguments.misses))
            both = missed["ours"] & missed["spacy"]
            print("  missed by both:", both.most_common(arguments.misses))
    if arguments.text:
        texts = [line for line in arguments.text.read_text(encoding="utf8").splitlines() if line]
        report["speed"] = speeds({name: nlp.tokenizer for name, nlp in pipelines.items()}, texts, arguments.runs)
        print("speed", json.dumps(report["speed"]))
    if arguments.output:
        arguments.output.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
