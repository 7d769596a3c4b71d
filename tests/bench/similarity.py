"""How well the similarity of sentences agrees with people: Spearman's rank correlation on annotated pairs.

Compares the vectors of `beto_vectors` with the same ones less their mean over other text, and with the words that two
sentences share (Jaccard). Not a test: run it as a script, on tab-separated files with a header.

    python tests/bench/similarity.py beto-mini stsb-es.test.tsv --columns 0,1,2 --mean corpus.txt
"""

import argparse
import csv
from pathlib import Path

import numpy
import spacy

from beto_spacy.pipeline.loading import load_pipeline


def ranks(values):
    """The ranks of values, ties at their mean."""
    _, place, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    ends = numpy.cumsum(counts)
    return ((2 * ends - counts - 1) / 2)[place]


def spearman(left, right):
    return float(numpy.corrcoef(ranks(left), ranks(right))[0, 1])


def cosines(left, right):
    return (left * right).sum(1) / numpy.linalg.norm(left, axis=1) / numpy.linalg.norm(right, axis=1)


def shared_words(left, right):
    left, right = set(left.lower().split()), set(right.lower().split())
    return len(left & right) / len(left | right)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="A trained pipeline's folder, or an encoder")
    parser.add_argument("pairs", type=Path, nargs="+")
    parser.add_argument("--columns", default="0,1,2", help="Numbers of two sentences and of the score")
    parser.add_argument("--mean", type=Path, help="Text, a sentence a line, whose mean vector is subtracted")
    arguments = parser.parse_args()
    if Path(arguments.model, "meta.json").is_file():
        nlp = load_pipeline(arguments.model)
        nlp.add_pipe("beto_vectors", after="transformer")
    else:
        nlp = spacy.blank("es")
        model = {"@architectures": "beto_spacy.Encoder.v1", "name": arguments.model}
        nlp.add_pipe("beto_transformer", name="transformer", config={"model": model})
        nlp.add_pipe("beto_vectors")
        nlp.initialize()

    def vectors(texts):
        return numpy.array([doc.vector for doc in nlp.pipe(texts)])

    mean = None
    if arguments.mean:
        mean = vectors(arguments.mean.read_text(encoding="utf8").splitlines()).mean(axis=0)
    columns = [int(number) for number in arguments.columns.split(",")]
    for path in arguments.pairs:
        with open(path, encoding="utf8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
        one, other, scores = zip(*([row[i] for i in columns] for row in rows))
        scores = numpy.array(scores, dtype="f8")
        left, right = vectors(one), vectors(other)
        found = {"vectors": cosines(left, right)}
        if mean is not None:
            found["less the mean"] = cosines(left - mean, right - mean)
        found["shared words"] = numpy.array([shared_words(a, b) for a, b in zip(one, other)])
        for name, values in found.items():
            print(f"{path.name}\t{len(rows)} pairs\t{name}\t{100 * spearman(values, scores):.1f}")
        print(f"{path.name}\tmean similarity of unlike pairs\t{cosines(left, numpy.roll(right, 7, axis=0)).mean():.2f}")


if __name__ == "__main__":
    main()
