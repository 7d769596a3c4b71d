"""A smaller pipeline that learns from a trained one on unlabelled text: layer dropping and distillation.

The student has some of the teacher's layers, and its heads; or an encoder of another width, and heads with the
teacher's labels, from random weights. It learns the vectors of wordpieces that the teacher's last layer gives, through
a learned linear map where the widths differ (Jiao et al. 2020), and the probabilities that the teacher's heads give. A
head of ours compares its own (`soft_loss`), spaCy's tagger, morphologizer and others with a softmax are compared here;
any other head is trained on the teacher's annotation. Components that don't read the encoder are taken as they are.

What the student is worth is measured before it's written. A training that is stopped starts anew.
"""

import dataclasses
import random
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed
from spacy_transformers.data_classes import TransformerData
from thinc.api import Adam, Optimizer, torch2xp, warmup_linear, xp2torch
from transformers.modeling_outputs import ModelOutput

from beto_spacy.corpora.reader import load_docs
from beto_spacy.encoders.checkpoint import Checkpoint, Size, check_size, set_dropout
from beto_spacy.encoders.onnx_model import OnnxModel
from beto_spacy.encoders.shrink import build_smaller, keep_layers, spread_layers
from beto_spacy.errors import BetoError, ProjectError
from beto_spacy.evaluation.run import agreement_scores, headline_scores, words_per_second
from beto_spacy.files import folder_size, new_folder
from beto_spacy.formats.running_text import expand, read_documents
from beto_spacy.heads.tagger.layers import takes_mean
from beto_spacy.pipeline.divergence import categorical_divergence
from beto_spacy.pipeline.encoder import EncoderShim
from beto_spacy.pipeline.loading import check_pipeline_place, load_pipeline
from beto_spacy.pipeline.shim import TorchShim
from beto_spacy.pipeline.transformer import BetoTransformer
from beto_spacy.settings import read_settings

HIDDEN = ("cosine", "mse")
#: The name of the loss of hidden states, beside those of components.
_HIDDEN_STATES = "hidden states"
#: Pieces of documents that are shuffled at once.
_BUFFER = 2_000
#: Timed runs of teacher and student, alternated.
_RUNS = 3


@dataclasses.dataclass(frozen=True)
class Student:
    """How small it is.

    layers: How many of the teacher's layers, evenly spread (see `shrink.spread_layers`); or which, counted from 1:
        ``1,3,5``.
    width, heads: Of the hidden states, and attention heads; None for the teacher's. With others the encoder starts
        from random weights, and so do the heads if the width differs.
    """

    layers: str = "3"
    width: Optional[int] = None
    heads: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is learned.

    hidden: How vectors are compared: ``cosine``, 1 minus the cosine; ``mse``, the squared difference, mean over width.
    hidden_weight: Of their sum over wordpieces.
    temperature: Of the probabilities.
    weights: Of each component's loss, summed over words, by its name; 1 if it isn't named. Components that are trained
        on the teacher's annotation have no weight.
    """

    hidden: str = "cosine"
    hidden_weight: float = 1.0
    temperature: float = 2.0
    weights: Dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Training:
    """How it's learned.

    steps: Updates.
    batch_words: Words an update.
    piece_words: Paragraphs of a document are put together to texts of so many words, so that there are sentences that
        end inside; a longer paragraph stays alone.
    learn_rate: The highest; reached after the warm-up, and then falling to zero.
    warmup: Part of the updates, 0 to 1.
    weight_decay, grad_clip: Of Adam, and the norm that the gradient of each weight is clipped to.
    dropout: In the distillation; None for that of the pipeline.
    held_out_words: Words of the texts that are put aside, whole documents, to measure agreement and speed on.
    eval_every: Updates between lines of the log, and looks at the agreement.
    """

    steps: int = 1_000
    batch_words: int = 1_000
    piece_words: int = 150
    learn_rate: float = 2e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    dropout: Optional[float] = 0.0
    held_out_words: int = 3_000
    eval_every: int = 100


_SECTIONS = {
    "paths": ("texts",),
    "student": Student,
    "objective": Objective,
    "training": Training,
    "system": ("seed",),
}


def distill_from_config(
    teacher: Union[str, Path],
    config: Union[str, Path],
    dest: Union[str, Path],
    *,
    overrides: Optional[Dict[str, Any]] = None,
    corpora: Sequence[Union[str, Path]] = (),
    gpu: int = -1,
    say: Callable[[str], None] = lambda line: None,
) -> Dict[str, Any]:
    """Distil as a config says (``configs/distill.cfg``): see `distill`, `Student`, `Objective` and `Training`.

    config: The file.
    overrides: Values by section and name, such as ``{"training.steps": 500}``.
    Returns what `distill` does. Raises ProjectError for a config that can't be read or has other fields, and all that
    `distill` raises.
    """
    read = read_settings(Path(config), _SECTIONS, example="configs/distill.cfg", overrides=overrides or {})
    return distill(
        teacher,
        dest,
        expand(read["paths"]["texts"]),
        student=Student(**read["student"]),
        objective=Objective(**read["objective"]),
        training=Training(**read["training"]),
        corpora=corpora,
        seed=read["system"]["seed"],
        gpu=gpu,
        say=say,
    )


def distill(
    teacher: Union[str, Path],
    dest: Union[str, Path],
    texts: Sequence[Union[str, Path]],
    *,
    student: Student = Student(),  # noqa: B008
    objective: Objective = Objective(),  # noqa: B008
    training: Training = Training(),  # noqa: B008
    corpora: Sequence[Union[str, Path]] = (),
    seed: int = 0,
    gpu: int = -1,
    say: Callable[[str], None] = lambda line: None,
) -> Dict[str, Any]:
    """Train a smaller pipeline to annotate as another does, and write it.

    teacher: A trained pipeline, by folder or package.
    dest: The folder to write; another pipeline that is there is replaced at the end.
    texts: Files of running text, as `texts.read_documents` reads them.
    student, objective, training: See there.
    corpora: Annotated corpora that both are scored on, as `corpus.load_docs` reads them.
    seed: Of new weights, dropout and the order of the text.
    gpu: Number of the GPU; -1 for the CPU.
    say: Called with a line on the progress.
    Returns ``teacher`` and ``student`` (layers, width, parameters, megabytes, words a second of each run), ``learned``
    (from what each component learned), ``losses`` (the last, by word), ``agreement`` (by measure, per cent) and
    ``scores`` (of both, by corpus and measure). Raises ProjectError for a teacher, a student or settings that can't be,
    FormatError for texts and CorpusError for corpora that can't be read.
    """
    dest = Path(dest)
    nlp = load_pipeline(teacher, gpu=gpu)
    transformer = _find_transformer(nlp, teacher)
    check_pipeline_place(dest, nlp.path)
    _check_settings(objective, training, transformer)
    kept, new_size = _plan_student(student, transformer)
    golds = {str(corpus): load_docs(corpus, nlp) for corpus in corpora}
    held_out, n_aside = _put_aside(texts, training)
    batches = _batches(texts, n_aside, training, random.Random(seed))
    first = next(batches)  # there is something to learn from, or else it's said now

    fix_random_seed(seed)
    pupil = load_pipeline(nlp.path, gpu=gpu, vocab=nlp.vocab)
    distillation = _Distillation(nlp, pupil, transformer.name, objective)
    before = list(nlp.pipe(held_out))
    examples = [Example(nlp.make_doc(doc.text), doc) for doc in before]
    distillation.shrink(kept, new_size, seed, examples)
    losses = _train(distillation, first, batches, training, say, held_out, before)

    pupil.meta["performance"] = {}  # it had the teacher's
    with new_folder(dest) as part:
        pupil.to_disk(part)
        saved = load_pipeline(part, gpu=gpu, vocab=nlp.vocab)
        result: Dict[str, Any] = {"texts": [str(text) for text in texts], "seed": seed}
        for field, value in (("size", student), ("objective", objective), ("training", training)):
            result[field] = dataclasses.asdict(value)
        result.update(teacher=_describe(nlp, nlp.path), student=_describe(saved, part))
        result.update(learned=distillation.learned(), losses=losses)
        speeds = _measure_speed((nlp, saved), before)
        result["teacher"]["words_per_second"], result["student"]["words_per_second"] = speeds
        result["agreement"] = agreement_scores(nlp, before, list(saved.pipe(held_out)))
        result["scores"] = {
            corpus: [headline_scores(one, docs, list(one.pipe(doc.text for doc in docs))) for one in (nlp, saved)]
            for corpus, docs in golds.items()
        }
    return result


# --- what there is, and what is wanted -------------------------------------------------------------------------------


def _find_transformer(nlp: Language, teacher: Union[str, Path]) -> BetoTransformer:
    found = [pipe for _, pipe in nlp.pipeline if isinstance(pipe, BetoTransformer)]
    if len(found) != 1:
        raise ProjectError(
            "B560",
            f"The teacher has {len(found)} components of beto_transformer; one can be distilled.",
            "Give a trained pipeline with one shared encoder.",
            path=teacher,
        )
    if isinstance(found[0].model.shims[0].encoder, OnnxModel):
        raise ProjectError(
            "B561",
            "The teacher's encoder is in 8-bit integers; no student can start from it.",
            "Give the pipeline that it was made of, and quantize the student.",
            path=teacher,
        )
    return found[0]


def _check_settings(objective: Objective, training: Training, transformer: BetoTransformer) -> None:
    names = transformer.listening_components
    odd = sorted(set(objective.weights) - set(names))
    if odd:
        raise ProjectError(
            "B564", f"No head of the teacher is named '{odd[0]}'.", f"Set weights of: {', '.join(names)}."
        )
    weights = [objective.hidden_weight, *objective.weights.values()]
    n_heads = sum(objective.weights.get(name, 1) != 0 for name in names)
    wrong = {
        "hidden": objective.hidden not in HIDDEN,
        "weights": not all(isinstance(w, (int, float)) and w >= 0 for w in weights) or not (weights[0] or n_heads),
        "temperature": objective.temperature <= 0,
        "steps": training.steps < 1,
        "batch_words": training.batch_words < 1,
        "piece_words": training.piece_words < 1,
        "learn_rate": training.learn_rate <= 0,
        "warmup": not 0 <= training.warmup <= 1,
        "weight_decay": training.weight_decay < 0,
        "grad_clip": training.grad_clip <= 0,
        "dropout": not 0 <= (training.dropout or 0) < 1,
        "held_out_words": training.held_out_words < 1,
        "eval_every": training.eval_every < 1,
    }
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        raise ProjectError(
            "B563",
            f"'{name}' can't be {getattr(objective, name, None) or getattr(training, name, None)}.",
            f"Set 'hidden' to {' or '.join(HIDDEN)}, parts from 0 to 1, weights to 0 or more with something to learn, "
            "and all else above 0.",
        )


def _plan_student(student: Student, transformer: BetoTransformer) -> Tuple[List[int], Optional[Tuple[int, int]]]:
    """The layers to keep, from 0; and the width and the attention heads of an encoder that is built anew, or None.

    Raises ProjectError for layers, and EncoderError for a size, that can't be.
    """
    config = transformer.model.shims[0].encoder.config
    n_layers = config.num_hidden_layers
    size = (student.width or config.hidden_size, student.heads or config.num_attention_heads)
    try:
        named = [int(part) for part in student.layers.split(",")]
    except ValueError:
        named = []
    alone = len(named) == 1
    if not named or min(named) < 1 or max(named) > n_layers or named != sorted(set(named)):
        raise ProjectError(
            "B562",
            f"Of the teacher's {n_layers} layers, '{student.layers}' can't be kept.",
            f"Give a number from 1 to {n_layers}, or several in order, such as 1,{n_layers}.",
        )
    kept = spread_layers(named[0], n_layers) if alone else [number - 1 for number in named]
    check_size(Size(layers=len(kept), width=size[0], heads=size[1]))
    return kept, None if size == (config.hidden_size, config.num_attention_heads) else size


# --- text ------------------------------------------------------------------------------------------------------------


def _documents(texts: Sequence[Union[str, Path]], piece_words: int) -> Iterator[List[str]]:
    """The pieces of each document, one document of each file in turn."""
    streams = [read_documents([text]) for text in texts]
    while streams:
        for stream in list(streams):
            document = next(stream, None)
            if document is None:
                streams.remove(stream)
            else:
                yield _pieces(document, piece_words)


def _pieces(paragraphs: Sequence[str], n_words: int) -> List[str]:
    """Paragraphs put together to texts of so many words at most; a longer one stays alone."""
    pieces: List[str] = []
    for paragraph in paragraphs:
        if pieces and _n_words(pieces[-1]) + _n_words(paragraph) <= n_words:
            pieces[-1] += " " + paragraph
        else:
            pieces.append(paragraph)
    return pieces


def _n_words(text: str) -> int:
    return text.count(" ") + 1


def _put_aside(texts: Sequence[Union[str, Path]], training: Training) -> Tuple[List[str], int]:
    """The pieces of the first documents, with the words that are wanted or some more, and how many documents these are.

    Raises FormatError for texts that can't be read.
    """
    aside: List[str] = []
    n_words = n_documents = 0
    for document in _documents(texts, training.piece_words):
        if n_words >= training.held_out_words:
            break
        aside += document
        n_words += sum(map(_n_words, document))
        n_documents += 1
    return aside, n_documents


def _batches(
    texts: Sequence[Union[str, Path]], n_aside: int, training: Training, order: random.Random
) -> Iterator[List[str]]:
    """Pieces of documents, as many as fit an update, without end; the texts are gone through as often as needed.

    n_aside: Documents at the beginning that are left out.
    order: Shuffles the pieces, some thousands at a time.
    Raises ProjectError if there are none.
    """
    batch: List[str] = []
    size = 0
    while True:
        documents = islice(_documents(texts, training.piece_words), n_aside, None)
        fitting = (piece for document in documents for piece in document if _n_words(piece) <= training.batch_words)
        is_empty = True
        while buffer := list(islice(fitting, _BUFFER)):
            is_empty = False
            order.shuffle(buffer)
            for piece in buffer:
                if batch and size + _n_words(piece) > training.batch_words:
                    yield batch
                    batch, size = [], 0
                batch.append(piece)
                size += _n_words(piece)
        if is_empty:
            raise ProjectError(
                "B565",
                f"There is no text to learn from beside the {n_aside} documents that are put aside.",
                "Name more in [paths] texts; or lower 'held_out_words', or raise 'batch_words': what is longer is left "
                "out.",
            )


# --- learning --------------------------------------------------------------------------------------------------------


class _Goals(NamedTuple):
    """What the teacher says of some documents.

    docs: The documents, annotated.
    rows: The vectors of all wordpieces, special tokens too. *Shape:* (n_rows, width)
    outputs: Of each head that is compared: the outputs of a head of ours, or logits, *shape:* (n_tokens, n_classes).
    """

    docs: List[Doc]
    rows: torch.Tensor
    outputs: Dict[str, Any]


class _HiddenStates:
    """Reads the student's vectors as a head does, and learns to make the teacher's of them.

    kind: See `Objective.hidden`.
    mapping: From the student's width to the teacher's, or None where they are the same.
    """

    def __init__(self, kind: str, mapping: Optional[torch.nn.Linear]):
        self.kind = kind
        self.shim = TorchShim()
        if mapping is not None:
            self.shim.set_module(mapping)
        self._features: List[TransformerData] = []
        self._backprop: Callable[[List[TransformerData]], Any] = lambda gradients: None

    def has_dim(self, name: str) -> Optional[bool]:
        """It takes any width: what the transformer asks its listeners."""
        return False

    def receive(self, batch_id: int, features: List[TransformerData], backprop: Callable[..., Any]) -> None:
        """Called by the transformer: the features of each document, and what takes their gradients."""
        self._features, self._backprop = features, backprop

    def learn(self, goal: torch.Tensor, weight: float) -> float:
        """Send the gradients of the mean distance from the teacher's vectors back.

        Returns the weighted distance, summed over wordpieces.
        """
        filled = [data for data in self._features if "last_hidden_state" in data.model_output]
        rows = _rows(filled).to(goal.device).requires_grad_()
        module = self.shim._model
        found = rows if module is None else module(rows)
        if self.kind == "cosine":
            apart = 1 - torch.nn.functional.cosine_similarity(found, goal, dim=1)
        else:
            apart = (found - goal).square().mean(dim=1)
        loss = weight * apart.sum()
        (loss / max(1, len(rows))).backward()
        gradients, first = [], 0
        for data in filled:
            last = first + data.model_output.last_hidden_state.shape[1]
            output = ModelOutput(last_hidden_state=torch2xp(rows.grad[None, first:last].contiguous()))
            gradients.append(TransformerData(data.wordpieces, output, data.align))
            first = last
        self._backprop(gradients)
        self._features = []
        return float(loss.detach())


def _rows(features: Iterable[TransformerData]) -> torch.Tensor:
    """The vectors of the wordpieces of documents in a row, in a copy. *Shape:* (n_rows, width)"""
    return torch.cat([xp2torch(data.model_output.last_hidden_state)[0] for data in features]).clone()


class _Distillation:
    """A teacher and a student, and what the second learns of the first from a batch.

    teacher, student: Pipelines with the same components and the same vocabulary.
    transformer: The name of their encoder.
    objective: What is learned.
    """

    def __init__(self, teacher: Language, student: Language, transformer: str, objective: Objective):
        self.teacher, self.student, self.objective = teacher, student, objective
        self.transformer: BetoTransformer = student.get_pipe(transformer)
        #: The heads, in their order.
        self.heads = list(self.transformer.listening_components)
        self.hidden: Optional[_HiddenStates] = None

    def learned(self) -> Dict[str, str]:
        """From what each head learns: ``probabilities`` or ``annotation``."""
        return {name: "probabilities" if self._compares(name) else "annotation" for name in self.heads}

    def _compares(self, name: str) -> bool:
        pipe = self.student.get_pipe(name)
        return hasattr(pipe, "get_soft_loss") or bool(pipe.model.has_ref("softmax"))

    def shrink(
        self, kept: Sequence[int], new_size: Optional[Tuple[int, int]], seed: int, examples: Sequence[Example]
    ) -> None:
        """Give the student its encoder, and heads that fit.

        kept, new_size: As `_plan_student` gives them.
        examples: What the teacher says of some documents.
        """
        shim: EncoderShim = self.transformer.model.shims[0]
        whole = Checkpoint(shim.encoder, shim.tokenizer)
        width = shim.encoder.config.hidden_size
        if new_size is None:
            shim.set_checkpoint(keep_layers(whole, kept))
        else:
            shim.set_checkpoint(build_smaller(whole, layers=len(kept), width=new_size[0], heads=new_size[1], seed=seed))
        mapping = None
        if new_size is not None and new_size[0] != width:
            self.transformer.model.set_dim("nO", new_size[0], force=True)
            for name in self.heads:
                self._rebuild(name, examples)
            mapping = torch.nn.Linear(new_size[0], width)
        if self.objective.hidden_weight:
            self.hidden = _HiddenStates(self.objective.hidden, mapping)

    def _rebuild(self, name: str, examples: Sequence[Example]) -> None:
        """Put a head with the same settings and labels and random weights in the place of one."""
        before = self.student.get_pipe(name)
        config = {key: value for key, value in self.student.get_pipe_config(name).items() if key != "factory"}
        try:
            pipe = self.student.replace_pipe(name, self.student.get_pipe_meta(name).factory, config=config)
            pipe.initialize(lambda: examples, nlp=self.student, labels=before.label_data)
        except BetoError:
            raise
        except Exception as error:  # any component may be a head
            raise ProjectError(
                "B568",
                f"The head '{name}' can't be built anew for another width ({type(error).__name__}: {error}).",
                "Keep the teacher's width.",
            ) from error
        if isinstance(getattr(before, "cfg", None), dict):  # thresholds and the like
            pipe.cfg.update({key: value for key, value in before.cfg.items() if key != "width"})

    def torch_modules(self) -> List[torch.nn.Module]:
        """The student's modules that have dropout of their own."""
        pipes = [self.transformer, *map(self.student.get_pipe, self.heads)]
        shims = [shim for pipe in pipes for node in pipe.model.walk() for shim in node.shims]
        return [shim._model for shim in shims if isinstance(getattr(shim, "_model", None), torch.nn.Module)]

    def update(self, texts: Sequence[str], optimizer: Optimizer, losses: Dict[str, float]) -> int:
        """Learn from some texts. The losses, summed over words, are added by name. Returns the number of tokens."""
        goals = self._ask(texts)
        docs = [self.student.make_doc(text) for text in texts]
        for name, pipe in self.student.pipeline:
            if name == self.transformer.name:
                break
            docs = _annotate(pipe, docs)
        examples = [Example(doc, goal) for doc, goal in zip(docs, goals.docs)]
        if self.hidden is not None:
            self.transformer.add_listener(self.hidden, _HIDDEN_STATES)
        try:
            self.transformer.update(examples)
            if self.hidden is not None:
                loss = self.hidden.learn(goals.rows, self.objective.hidden_weight)
                losses[_HIDDEN_STATES] = losses.get(_HIDDEN_STATES, 0.0) + loss
            for name in self.heads:
                self._update_head(name, examples, goals, losses)
        finally:
            if self.hidden is not None:
                self.transformer.remove_listener(self.hidden, _HIDDEN_STATES)
        for name in self.heads:
            self.student.get_pipe(name).finish_update(optimizer)
        self.transformer.finish_update(optimizer)
        if self.hidden is not None:
            self.hidden.shim.finish_update(optimizer)
        optimizer.step_schedules()
        return sum(map(len, docs))

    def _ask(self, texts: Sequence[str]) -> _Goals:
        """Have the teacher annotate texts, and keep what its heads are compared by."""
        docs = [self.teacher.make_doc(text) for text in texts]
        outputs: Dict[str, Any] = {}
        rows = torch.zeros((0, 0))
        for name, pipe in self.teacher.pipeline:
            if name in self.heads and self._compares(name):
                is_ours = hasattr(pipe, "get_soft_loss")
                outputs[name] = pipe.model.predict(docs) if is_ours else _tag_logits(pipe, docs)
            docs = _annotate(pipe, docs)
            if name == self.transformer.name:
                features = [doc._.trf_data for doc in docs]
                rows = _rows(data for data in features if "last_hidden_state" in data.model_output)
        return _Goals(docs, rows, outputs)

    def _update_head(self, name: str, examples: Sequence[Example], goals: _Goals, losses: Dict[str, float]) -> None:
        pipe = self.student.get_pipe(name)
        weight = self.objective.weights.get(name, 1.0)
        if not self._compares(name):
            pipe.update(examples, losses=losses)
            return
        if not weight:
            return
        temperature = self.objective.temperature
        outputs, backprop = pipe.model.begin_update([example.predicted for example in examples])
        if hasattr(pipe, "get_soft_loss"):
            loss, gradients = pipe.get_soft_loss(
                goals.docs, outputs, goals.outputs[name], temperature=temperature, weight=weight
            )
        else:
            loss, gradients = _tag_loss(pipe, outputs, goals.outputs[name], temperature, weight)
        backprop(gradients)
        losses[name] = losses.get(name, 0.0) + loss


def _annotate(pipe: Any, docs: List[Doc]) -> List[Doc]:
    return list(pipe.pipe(docs, batch_size=len(docs))) if hasattr(pipe, "pipe") else [pipe(doc) for doc in docs]


def _tag_logits(pipe: Any, docs: Sequence[Doc]) -> torch.Tensor:
    """The logits of a head with spaCy's softmax, up to a constant a token. *Shape:* (n_tokens, n_classes)

    In prediction the layer mostly leaves out the normalization, and with it its temperature.
    """
    softmax = pipe.model.get_ref("softmax")
    scores = xp2torch(pipe.model.ops.flatten(pipe.model.predict(docs)))
    if softmax.attrs["softmax_normalize"]:
        return _logarithm(scores)
    return scores / softmax.attrs["softmax_temperature"]


def _tag_loss(
    pipe: Any, probabilities: List[Any], targets: torch.Tensor, temperature: float, weight: float
) -> Tuple[float, List[Any]]:
    """The divergence of the probabilities of tags, summed, and the gradient of its mean that spaCy's softmax takes.

    Both are times a weight. That gradient is the one by logits, and the logarithms of probabilities are logits.

    probabilities: Of the tokens of each document. *Shape:* (n_tokens, n_classes)
    targets: Logits of the tokens of all documents. *Shape:* (n_tokens, n_classes)
    """
    logits = _logarithm(xp2torch(pipe.model.ops.flatten(probabilities))).requires_grad_()
    loss = weight * categorical_divergence(logits, targets, temperature).sum()
    loss.backward()
    lengths = [len(scores) for scores in probabilities]
    gradient = logits.grad if takes_mean(pipe.model) else logits.grad / max(1, sum(lengths))
    return float(loss.detach()), pipe.model.ops.unflatten(torch2xp(gradient), lengths)


def _logarithm(probabilities: torch.Tensor) -> torch.Tensor:
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _train(
    distillation: _Distillation,
    first: List[str],
    batches: Iterator[List[str]],
    training: Training,
    say: Callable[[str], None],
    held_out: Sequence[str],
    goal: Sequence[Doc],
) -> Dict[str, float]:
    """Train the student. Returns its last losses, by word."""
    rates = warmup_linear(training.learn_rate, round(training.warmup * training.steps), training.steps + 1)
    optimizer = Adam(rates, L2=training.weight_decay, L2_is_weight_decay=True, grad_clip=training.grad_clip)
    optimizer.step_schedules()  # the first rate is zero, and so is the one after the last update
    encoder = distillation.transformer.model.shims[0].encoder
    stated = [set_dropout(module, training.dropout) for module in distillation.torch_modules()]
    begun = time.monotonic()
    losses: Dict[str, float] = {}
    by_word: Dict[str, float] = {}
    n_words, since = 0, begun
    for step in range(1, training.steps + 1):
        n_words += distillation.update(first if step == 1 else next(batches), optimizer, losses)
        if step % training.eval_every == 0 or step == training.steps:
            now = time.monotonic()
            by_word = {name: loss / n_words for name, loss in losses.items()}
            parts = "  ".join(f"{name} {loss:.4f}" for name, loss in by_word.items())
            left = (training.steps - step) * (now - begun) / step / 60
            speed = n_words / (now - since)
            say(f"step {step:,} of {training.steps:,}  {parts}  {speed:,.0f} words a second  {left:,.0f} minutes left")
            found = list(distillation.student.pipe(held_out))
            agreement = agreement_scores(distillation.teacher, goal, found)
            say("  agreement: " + "  ".join(f"{measure} {value:.2f}" for measure, value in agreement.items()))
            losses, n_words, since = {}, 0, time.monotonic()
    encoder.config.update(stated[0])
    return by_word


# --- what came of it -------------------------------------------------------------------------------------------------


def _describe(nlp: Language, folder: Path) -> Dict[str, Any]:
    """The size of a pipeline in a folder."""
    (pipe,) = (pipe for _, pipe in nlp.pipeline if isinstance(pipe, BetoTransformer))
    config = pipe.model.shims[0].encoder.config
    return {
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "parameters": _n_parameters(nlp),
        "megabytes": round(folder_size(folder) / 1e6, 1),
    }


def _n_parameters(nlp: Language) -> int:
    total = 0
    models = [pipe.model for _, pipe in nlp.pipeline if hasattr(getattr(pipe, "model", None), "walk")]
    for node in (node for model in models for node in model.walk()):
        total += sum(node.get_param(name).size for name in node.param_names if node.has_param(name))
        for shim in node.shims:
            if isinstance(getattr(shim, "_model", None), torch.nn.Module):
                total += sum(parameter.numel() for parameter in shim._model.parameters())
    return total


def _measure_speed(pipelines: Sequence[Language], docs: Sequence[Doc]) -> List[List[int]]:
    """Words a second of pipelines over the same texts, alternated; of each, those of each run."""
    found: List[List[int]] = [[] for _ in pipelines]
    for run in range(_RUNS):
        for speeds, nlp in zip(found, pipelines):
            speeds.append(round(words_per_second(nlp, docs, runs=1, warm_up=run == 0)["words_per_second"]))
    return found


def render_distilled(result: Dict[str, Any]) -> str:
    """Lay out what `distill` found as a Markdown table."""
    one, other = result["teacher"], result["student"]
    lines = ["| | teacher | student | change |", "| --- | ---: | ---: | ---: |"]
    for name in ("layers", "width", "parameters", "megabytes"):
        lines.append(f"| {name} | {one[name]:,} | {other[name]:,} | {other[name] / one[name] - 1:+.0%} |")
    speeds = [statistics.median(entry["words_per_second"]) for entry in (one, other)]
    ratios = [b / a for a, b in zip(one["words_per_second"], other["words_per_second"])]
    cells = f"{speeds[0]:,.0f} | {speeds[1]:,.0f} | {statistics.median(ratios):.2f} times"
    lines.append(f"| words a second (median of {len(ratios)}) | {cells} |")
    for measure, value in result["agreement"].items():
        lines.append(f"| agreement on held-out text: {measure} | | {value:.2f} | |")
    for corpus, (before, after) in result["scores"].items():
        for measure in (measure for measure in before if measure in after):
            cells = f"{before[measure]:.2f} | {after[measure]:.2f} | {after[measure] - before[measure]:+.2f}"
            lines.append(f"| {Path(corpus).name}: {measure} | {cells} |")
    by_annotation = [name for name, kind in result["learned"].items() if kind == "annotation"]
    if by_annotation:
        lines += ["", f"Learned from the teacher's annotation, not its probabilities: {', '.join(by_annotation)}."]
    return "\n".join(lines)
