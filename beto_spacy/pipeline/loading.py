"""Choosing the device, loading a trained pipeline, and checking where one is to be written."""

from pathlib import Path
from typing import Optional, Union

import spacy
from spacy.language import Language
from spacy.vocab import Vocab
from thinc.api import require_cpu

from beto_spacy.errors import EncoderError, ProjectError


def use_device(gpu: int) -> None:
    """Have what is loaded from now on run on a GPU, or on the CPU: -1. Raises ProjectError if the GPU can't be used."""
    if gpu < 0:
        require_cpu()
        return
    try:
        spacy.require_gpu(gpu)
    except Exception as error:
        raise ProjectError(
            "B512",
            f"GPU {gpu} can't be used ({error}).",
            "Install the extra for your CUDA, such as pip install 'beto-spacy[cuda12x]', or take the CPU: -1.",
        ) from error


def load_pipeline(model: Union[str, Path], *, gpu: int = -1, vocab: Optional[Vocab] = None) -> Language:
    """Load a trained pipeline by package name or folder, on the CPU or a GPU.

    model: A package such as ``es_beto_trf``, or a folder.
    gpu: Number of the GPU; -1 for the CPU.
    vocab: Of another pipeline, to have documents in common; by default its own.
    Raises ProjectError if it isn't there, or if the GPU isn't.
    """
    use_device(gpu)
    if not Path(model).is_dir() and not spacy.util.is_package(str(model)):
        raise ProjectError(
            "B513",
            f"There is no pipeline '{model}': neither a folder nor an installed package.",
            "Check the path, or install the package's wheel.",
        )
    try:
        return spacy.load(model, vocab=True if vocab is None else vocab)
    except EncoderError:
        raise
    except Exception as error:  # a broken folder, config or package fails with whatever its loading code raises
        raise ProjectError(
            "B514",
            f"The pipeline can't be loaded ({type(error).__name__}: {error}).",
            "Give a folder that nlp.to_disk wrote, complete, or an installed package.",
            path=model,
        ) from error


def check_pipeline_place(dest: Union[str, Path], source: Union[str, Path]) -> None:
    """Raise ProjectError if what is where a pipeline is to be written is none, or is or has the one that it's made of.

    dest: The folder to write; a pipeline that is there will be replaced.
    source: The pipeline that is read, a folder or a package.
    """
    dest, source = Path(dest).resolve(), Path(source).resolve()
    if dest == source or dest in source.parents:
        raise ProjectError("B566", f"'{dest}' is the pipeline that is read, or has it in it.", "Name another folder.")
    if dest.exists() and not (dest / "meta.json").is_file():
        raise ProjectError("B566", f"'{dest}' is there and is no pipeline.", "Name another folder, or remove it first.")
