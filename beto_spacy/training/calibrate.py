"""Settling what a trained pipeline is unsure of on development data: the temperature of its probabilities.

A component that can be calibrated has a method `calibrate`, which takes examples and returns what it chose.
"""

import shutil
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Union

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from beto_spacy.corpora.reader import load_docs
from beto_spacy.errors import ProjectError
from beto_spacy.files import new_folder
from beto_spacy.pipeline.loading import load_pipeline


def calibrate_model(
    model: Union[str, Path],
    corpora: Sequence[Union[str, Path]],
    *,
    output: Optional[Union[str, Path]] = None,
    gpu: int = -1,
) -> Dict[str, Any]:
    """Calibrate the components of a pipeline that can be, on development corpora, and save it.

    model: The folder of a trained pipeline.
    corpora: `.spacy` files, folders of them, or any format that `load_docs` reads.
    output: The folder to save it in, also if none of it can be calibrated; without it, it takes the pipeline's place.
    gpu: Number of the GPU; -1 for the CPU.
    Returns what each component chose, by its name. Raises ProjectError if the pipeline isn't a folder that can be
    loaded, or has no such component and no other folder to be saved in, CorpusError if a corpus can't be read or no
    corpus has the layer of such a component.
    """
    if not (Path(model) / "meta.json").is_file():
        raise ProjectError("B550", "There is no trained pipeline.", "Give the folder of one.", path=model)
    nlp = load_pipeline(model, gpu=gpu)
    chosen = calibrate_pipeline(nlp, corpora)
    if not chosen and output is None:
        raise ProjectError(
            "B551", f"None of {', '.join(nlp.pipe_names)} can be calibrated.", "Train one that can, such as beto_ner."
        )
    place = Path(model if output is None else output).resolve()  # what a link leads to, and not the link
    with new_folder(place) as part:
        shutil.copytree(model, part, dirs_exist_ok=True)  # with it goes what else is there
        nlp.to_disk(part)
    return chosen


def calibrate_pipeline(nlp: Language, corpora: Sequence[Union[str, Path]]) -> Dict[str, Any]:
    """The same with a pipeline that is loaded, which isn't saved; nothing happens if none of it can be calibrated."""
    if not any(hasattr(pipe, "calibrate") for _, pipe in nlp.pipeline):
        return {}
    golds = [doc for path in corpora for doc in load_docs(path, nlp)]
    docs = [Doc(nlp.vocab, words=[t.text for t in gold], spaces=[bool(t.whitespace_) for t in gold]) for gold in golds]
    chosen = {}
    for name, pipe in nlp.pipeline:
        if hasattr(pipe, "calibrate"):
            chosen[name] = pipe.calibrate([Example(doc, gold) for doc, gold in zip(docs, golds)])
        docs = list(pipe.pipe(docs, batch_size=nlp.batch_size)) if hasattr(pipe, "pipe") else list(map(pipe, docs))
    return chosen
