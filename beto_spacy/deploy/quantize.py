"""A trained pipeline with its encoder in 8-bit integers: several times faster on the CPU, a quarter of the size.

What it costs is measured before anything is written: the annotation of the smaller pipeline against that of the one it
was made of, and both against a corpus where there is one.
"""

from itertools import islice
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple, Union

import torch
from spacy.language import Language
from spacy.tokens import Doc

from beto_spacy.corpora.reader import load_docs
from beto_spacy.encoders.checkpoint import Checkpoint
from beto_spacy.encoders.onnx_model import Int8Exporter, OnnxModel
from beto_spacy.errors import ProjectError
from beto_spacy.evaluation.run import agreement_scores, headline_scores
from beto_spacy.files import new_folder
from beto_spacy.formats.running_text import expand, is_text_file, read_documents
from beto_spacy.pipeline.encoder import EncoderShim, make_batches
from beto_spacy.pipeline.loading import check_pipeline_place, load_pipeline
from beto_spacy.pipeline.transformer import BetoTransformer

#: Paragraphs of running text at most.
_MOST_TEXTS = 1_000


def quantize_model(
    model: Union[str, Path],
    dest: Union[str, Path],
    sources: Sequence[Union[str, Path]],
    *,
    max_loss: float = 0.3,
    say: Callable[[str], None] = lambda line: None,
) -> Dict[str, Any]:
    """Write a pipeline whose encoder computes in 8-bit integers, if it annotates as well as the one it's made of.

    Matrices that cost too much are left as they are, those that cost most first, until the loss is small enough.

    model: A trained pipeline, by folder or package.
    dest: The folder to write.
    sources: What to measure on: corpora as `corpus.load_docs` reads them, or running text (.txt, .xz, .gz).
    max_loss: The largest loss of any score, in points: on a corpus, of the scores against its annotation; on running
        text, of the agreement with the pipeline that it's made of (100 minus that).
    say: Called with a line on each attempt.
    Returns ``loss``, ``kept`` (the matrices left as they are), ``matrices`` (how many there are), ``vectors`` (largest
    and mean error, lowest cosine, of token vectors), ``agreement`` and ``scores`` (before, after), by source and
    measure. Raises ProjectError if the pipeline has no encoder of ours, something else is in the way or the loss stays
    too large, EncoderError if a package is missing.
    """
    nlp = load_pipeline(model)
    check_pipeline_place(dest, nlp.path)
    found = [(name, pipe) for name, pipe in nlp.pipeline if isinstance(pipe, BetoTransformer)]
    if len(found) != 1:
        raise ProjectError(
            "B555",
            f"The pipeline has {len(found)} components of beto_transformer; one can be quantized.",
            "Give a pipeline with one shared encoder.",
            path=model,
        )
    name, pipe = found[0]
    shim: EncoderShim = pipe.model.shims[0]
    if isinstance(shim.encoder, OnnxModel):
        raise ProjectError("B556", "The encoder is in 8-bit integers already.", "Give the original.", path=model)
    golds = {str(source): _documents(nlp, source) for source in sources}
    whole = shim.encoder
    before = {source: _annotate(nlp, docs) for source, docs in golds.items()}
    vectors = _vectors(pipe, golds)
    exporter = Int8Exporter(whole)
    matrices = exporter.matrices()
    kept: List[str] = []
    ranking: List[str] = []
    scores = {source: headline_scores(nlp, docs, before[source]) for source, docs in golds.items()}
    while True:
        shim.set_checkpoint(Checkpoint(exporter.quantized(kept), shim.tokenizer))
        after = {source: _annotate(nlp, docs) for source, docs in golds.items()}
        result = _compare(nlp, golds, before, scores, after)
        result.update(kept=list(kept), matrices=len(matrices), vectors=_errors(vectors, _vectors(pipe, golds)))
        say(f"{len(matrices) - len(kept)} of {len(matrices)} matrices in 8 bits: loss {result['loss']:.2f} points")
        if result["loss"] <= max_loss:
            break
        if not ranking and not kept:
            ranking = _rank(exporter, pipe, golds, vectors, matrices)
        if not ranking:
            raise ProjectError(
                "B557",
                f"In 8-bit integers the pipeline loses {result['loss']:.2f} points, more than {max_loss}, whatever "
                "matrices are left as they are.",
                "Allow a larger loss, or measure on more text: few documents make one difference weigh much.",
                path=model,
            )
        kept.append(ranking.pop(0))
    shim.precision = "int8"
    nlp._pipe_configs[name]["model"]["precision"] = "int8"
    with new_folder(dest) as part:
        nlp.to_disk(part)
    return result


def _documents(nlp: Language, source: Union[str, Path]) -> List[Doc]:
    """The documents of a corpus, or unannotated ones of running text."""
    if is_text_file(Path(source)):
        paragraphs = (text for document in read_documents(expand([source])) for text in document)
        docs = [nlp.make_doc(text) for text in islice(paragraphs, _MOST_TEXTS)]
    else:
        docs = load_docs(source, nlp)
    docs = [doc for doc in docs if len(doc)]
    if not docs:
        raise ProjectError("B558", "There is nothing to measure on.", "Give a corpus or texts.", path=source)
    return docs


def _annotate(nlp: Language, docs: Sequence[Doc]) -> List[Doc]:
    return list(nlp.pipe(doc.text for doc in docs))


def _vectors(pipe: BetoTransformer, golds: Dict[str, List[Doc]]) -> torch.Tensor:
    """The vectors of all wordpieces of all documents. *Shape:* (n_pieces, width)"""
    docs = [doc for found in golds.values() for doc in found]
    batches = make_batches(pipe.model, docs).padded
    outputs = pipe.model.shims[0].predict(batches)
    return torch.cat([out[torch.from_numpy(mask).bool()] for out, (_, mask) in zip(outputs, batches)])


def _errors(before: torch.Tensor, after: torch.Tensor) -> Dict[str, float]:
    apart = (before - after).abs()
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=1)
    return {
        "largest_error": float(apart.max()),
        "mean_error": float(apart.mean()),
        "mean_size": float(before.abs().mean()),
        "lowest_cosine": float(cosine.min()),
        "mean_cosine": float(cosine.mean()),
    }


def _rank(
    exporter: Int8Exporter,
    pipe: BetoTransformer,
    golds: Dict[str, List[Doc]],
    vectors: torch.Tensor,
    matrices: Sequence[str],
) -> List[str]:
    """The matrices by how much each by itself moves the vectors in 8 bits, the largest first."""
    shim: EncoderShim = pipe.model.shims[0]
    moved = {}
    for matrix in matrices:
        shim.set_checkpoint(Checkpoint(exporter.quantized(only=[matrix]), shim.tokenizer))
        moved[matrix] = _errors(vectors, _vectors(pipe, golds))["mean_error"]
    return sorted(moved, key=lambda matrix: -moved[matrix])


def _compare(
    nlp: Language,
    golds: Dict[str, List[Doc]],
    before: Dict[str, List[Doc]],
    scores_before: Dict[str, Dict[str, float]],
    after: Dict[str, List[Doc]],
) -> Dict[str, Any]:
    agreement: Dict[str, Dict[str, float]] = {}
    scores: Dict[str, Dict[str, Tuple[float, float]]] = {}
    losses = [0.0]
    for source, gold in golds.items():
        agreement[source] = agreement_scores(nlp, before[source], after[source])
        one, other = scores_before[source], headline_scores(nlp, gold, after[source])
        scores[source] = {measure: (one[measure], other[measure]) for measure in one if measure in other}
        if scores[source]:
            losses += [a - b for a, b in scores[source].values()]
        else:
            losses += [100.0 - value for value in agreement[source].values()]
    return {"loss": max(losses), "agreement": agreement, "scores": scores}


def render_quantized(result: Dict[str, Any]) -> str:
    """Lay out what `quantize_model` found as Markdown."""
    vectors = result["vectors"]
    left = result["matrices"] - len(result["kept"])
    lines = [
        f"{left} of {result['matrices']} matrices in 8 bits. Vectors: largest error {vectors['largest_error']:.3f}, "
        f"mean {vectors['mean_error']:.4f} of {vectors['mean_size']:.3f}, lowest cosine {vectors['lowest_cosine']:.3f}."
    ]
    for source, agreement in result["agreement"].items():
        scores = result["scores"][source]
        lines += ["", f"| {source} | agreement | before | after | change |", "| --- | ---: | ---: | ---: | ---: |"]
        for measure, value in agreement.items():
            pair = scores.get(measure)
            cells = ["", "", ""] if pair is None else [f"{pair[0]:.2f}", f"{pair[1]:.2f}", f"{pair[1] - pair[0]:+.2f}"]
            lines.append(f"| {measure} | {value:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
