"""Pretraining: the masked language model, with whole words, and next sentence prediction.

Builds an encoder or goes on with one, on the Trainer of transformers. The training material is made in `sequences.py`.
The result is an ordinary Hugging Face folder with its prediction head, which fill-mask, AutoModel and
`beto_transformer` load. `evaluate_encoder` measures how well an encoder predicts held-out words.

No spaCy here: it runs where only torch, transformers and accelerate are.
"""

import dataclasses
import importlib.util
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from beto_spacy.encoders.checkpoint import (
    LAYERS,
    Checkpoint,
    Size,
    check_place,
    cpu_has_bf16,
    known_length,
    quiet_hub,
    resolve_encoder,
    sequence_limit,
    set_dropout,
    write_checkpoint,
)
from beto_spacy.encoders.masked import (
    MaskedPositions,
    build_masked_model,
    cut_positions,
    load_masked_model,
    predict_masked,
    score_masked,
    to_tensors,
)
from beto_spacy.encoders.sequences import Sequences, TokenCache, Vocabulary, describe_vocabulary, identify, open_cache
from beto_spacy.errors import EncoderError, ProjectError
from beto_spacy.files import new_folder, write_json
from beto_spacy.formats.running_text import expand
from beto_spacy.settings import read_settings

_SETTINGS = "settings.json"
_STATE = "trainer_state.json"


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is learned.

    mask_rate: Part of the wordpieces that are predicted.
    next_sentence: λ in the loss ``MLM + λ·NSP``; 0 makes no pairs at all.
    """

    mask_rate: float = 0.15
    next_sentence: float = 0.0


@dataclasses.dataclass(frozen=True)
class Training:
    """How it's learned.

    steps: Updates; if 0, as many as the epochs have.
    epochs: How often the corpus is gone through, if steps is 0.
    lengths: Wordpieces a sequence, special tokens included; or several lengths and the part of the updates that has
        each, in order: ``128*0.9,512*0.1``.
    batch_wordpieces: Wordpieces an update, over all processes: so many sequences as have them when they are full.
    accumulate: Parts that a process computes its share of a batch in, one after the other.
    learn_rate: The highest; reached after the warm-up.
    schedule: What becomes of it then: ``linear``, ``cosine``, ``constant_with_warmup``; or ``warmup_stable_decay``,
        which keeps it until the decay.
    warmup, decay: Parts of the updates, 0 to 1.
    weight_decay, beta2, grad_clip: Of AdamW, and the norm that gradients are clipped to.
    dropout: In the pretraining; None for what the encoder's config states.
    precision: ``fp32``; ``bf16`` or ``fp16`` on a GPU; ``bf16`` on a processor that has instructions for it, too.
    compile: Compile the layers with torch.compile; it needs a C++ compiler. All sequences are padded to full length.
    eval_every, save_every, log_every: Updates between evaluations, checkpoints and lines of the log.
    patience: Evaluations without a better held-out loss after which it stops; 0 for never.
    keep: Checkpoints that are kept.
    workers: Processes that prepare batches.
    report_to: ``tensorboard``, ``wandb``, or both, as ``tensorboard,wandb``; empty for neither.
    cpu: Use the CPU even if there is a GPU.
    """

    steps: int = 0
    epochs: float = 1.0
    lengths: str = "128"
    batch_wordpieces: int = 4096
    accumulate: int = 1
    learn_rate: float = 4e-4
    schedule: str = "linear"
    warmup: float = 0.06
    decay: float = 0.2
    weight_decay: float = 0.01
    beta2: float = 0.98
    grad_clip: float = 1.0
    dropout: Optional[float] = 0.0
    precision: str = "fp32"
    compile: bool = False
    eval_every: int = 1_000
    save_every: int = 1_000
    log_every: int = 50
    patience: int = 0
    keep: int = 2
    workers: int = 0
    report_to: str = ""
    cpu: bool = False


class _Phase(NamedTuple):
    """Updates with sequences of one length.

    sequences: Where they come from.
    first, last: The update it starts with, and the one before which it ends.
    batch_size: Sequences an update.
    """

    sequences: Sequences
    first: int
    last: int
    batch_size: int


class Plan(Dataset):
    """All updates of a training, and the sequences of each.

    The sequences of an update are numbered, and cut into parts in order: by steps of accumulation, and these by
    processes. So the same sequences share an update, however many processes there are.

    phases: In order.
    """

    def __init__(self, phases: Sequence[_Phase]):
        self.phases = phases
        self.steps = phases[-1].last

    def __len__(self) -> int:
        return self.steps

    def _phase(self, step: int) -> Tuple[int, _Phase]:
        return next((i, phase) for i, phase in enumerate(self.phases) if step < phase.last)

    def batches(self, start: int, n_parts: int, part: int, n_processes: int) -> Iterator[List[Tuple[int, int]]]:
        """Numbers of the sequences of a process, a list a forward pass, from an update on."""
        for step in range(start, self.steps):
            i, phase = self._phase(step)
            size = phase.batch_size // (n_parts * n_processes)
            for accumulated in range(n_parts):
                first = (step - phase.first) * phase.batch_size + (accumulated * n_processes + part) * size
                yield [(i, number) for number in range(first, first + size)]

    def __getitems__(self, keys: List[Tuple[int, int]]) -> Dict[str, numpy.ndarray]:
        return self.phases[keys[0][0]].sequences.batch([number for _, number in keys])

    def n_tokens(self, first: int, last: int) -> int:
        """Wordpieces of the updates from one to before another."""
        total = 0
        for phase in self.phases:
            a, b = max(first, phase.first) - phase.first, min(last, phase.last) - phase.first
            if a < b:
                total += phase.sequences.n_tokens(a * phase.batch_size, b * phase.batch_size)
        return total


class _BatchSampler:
    """Hands the batches of a plan to a DataLoader; it starts where a resumed training goes on."""

    def __init__(self, plan: Plan, start: int, n_parts: int, part: int, n_processes: int):
        self._plan, self._arguments = plan, (start, n_parts, part, n_processes)
        self._length = (plan.steps - start) * n_parts

    def __iter__(self) -> Iterator[List[Tuple[int, int]]]:
        return self._plan.batches(*self._arguments)

    def __len__(self) -> int:
        return self._length


def make_plan(
    cache: TokenCache, vocabulary: Vocabulary, objective: Objective, training: Training, *, seed: int
) -> Plan:
    """Work out which updates a training has."""

    def sequences(length: int, batch_size: int, seed: int) -> Sequences:
        return Sequences(
            cache,
            vocabulary,
            length=length,
            batch_size=batch_size,
            mask_rate=objective.mask_rate,
            pairs=objective.next_sentence > 0,
            seed=seed,
            **({"shortest": length} if training.compile else {}),  # each shape is compiled anew
        )

    sizes = [(length, training.batch_wordpieces // length, part) for length, part in parse_lengths(training.lengths)]
    parts = [sequences(length, batch_size, seed + i) for i, (length, batch_size, _) in enumerate(sizes)]
    steps = training.steps
    if not steps:  # an update goes through so much of an epoch, on average
        a_step = sum(part * batch_size / len(sized) for (_, batch_size, part), sized in zip(sizes, parts))
        steps = max(1, math.ceil(training.epochs / a_step))
    phases, first, done = [], 0, 0.0
    for (_, batch_size, part), sized in zip(sizes, parts):
        done += part
        last = round(done * steps)
        if last > first:
            phases.append(_Phase(sized, first, last, batch_size))
        first = last
    return Plan(phases)


def parse_lengths(text: str) -> List[Tuple[int, float]]:
    """Read ``128*0.9,512*0.1``: lengths and parts, which add up to 1. Raises EncoderError for anything else."""
    found = []
    for item in str(text).split(","):
        length, _, part = item.partition("*")
        try:
            found.append((int(length), float(part or 1)))
        except ValueError:
            found = []
            break
    if not found or abs(sum(part for _, part in found) - 1) > 1e-6 or min(part for _, part in found) <= 0:
        raise EncoderError(
            "B640", f"'{text}' are no lengths.", "Write one, or several with parts that add up to 1: 128*0.9,512*0.1."
        )
    return found


@contextmanager
def _own_precision() -> Iterator[None]:
    """Take the precision from the settings: transformers leaves that of a training in the environment, for the next."""
    name = "ACCELERATE_MIXED_PRECISION"
    before = os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@_own_precision()
def pretrain(
    texts: Sequence[Union[str, Path]],
    dest: Union[str, Path],
    *,
    held_out: Sequence[Union[str, Path]] = (),
    start: Optional[Union[str, Path]] = None,
    tokenizer: Any = None,
    size: Size = Size(),  # noqa: B008
    objective: Objective = Objective(),  # noqa: B008
    training: Training = Training(),  # noqa: B008
    run: Optional[Union[str, Path]] = None,
    cache: Optional[Union[str, Path]] = None,
    half: bool = False,
    seed: int = 0,
    restart: bool = False,
) -> Dict[str, Any]:
    """Pretrain an encoder on running text, from random weights or going on with a checkpoint.

    A training that was stopped, in whatever way, goes on from its last checkpoint when it's called again with the same
    settings, to the same result. Under ``torchrun`` or ``accelerate launch`` the processes share each batch.

    texts: Files of running text, as `texts.read_documents` reads them; one that is named twice counts twice.
    dest: The folder of the encoder, an ordinary Hugging Face folder; it appears or is replaced at the end.
    held_out: Text on which the loss is watched; early stopping needs it, and then the best state is kept.
    start: The encoder to go on with: a folder, an embedded name or a hub name; its tokenizer and size are kept.
    tokenizer: Of an encoder that is built, a fast one of transformers.
    size, objective, training: See there. Of an encoder that is built, only the positions are saved that it was trained
        on: it takes sequences as long as the longest of the training.
    run: The folder for checkpoints and logs; by default beside ``dest``, named ``<dest>.run``.
    cache: The folder for the tokenized texts, which several runs may share; by default ``cache`` in that of the run.
    half: Save the weights in fp16, half as large.
    seed: Of weights, order, masks and pairs.
    restart: Forget the checkpoints of an earlier run.
    Returns what was trained and how it went: steps, wordpieces, wordpieces a second, held-out loss and accuracy.
    Raises EncoderError for an encoder or settings that can't be, FormatError for texts, ProjectError if the folder has
    another run, or accelerate is missing.
    """
    dest = Path(dest)
    run = Path(run) if run is not None else dest.with_name(dest.name + ".run")
    cache = Path(cache) if cache is not None else run / "cache"
    _check_training(training)
    check_place(dest)
    if (start is None) == (tokenizer is None):
        raise EncoderError("B624", "An encoder starts from a checkpoint or from a vocabulary.", "Give one of the two.")
    pairs = objective.next_sentence > 0
    if start is not None:
        checkpoint = load_masked_model(start, next_sentence=pairs, new_head=True)
        model, tokenizer = checkpoint.model, checkpoint.tokenizer
    else:
        model = build_masked_model(tokenizer, size, next_sentence=pairs, seed=seed)
    known = known_length(model)
    stated = set_dropout(model, training.dropout)
    tokenizer.model_max_length = sequence_limit(model)
    longest = max(length for length, _ in parse_lengths(training.lengths))
    if longest > sequence_limit(model):
        raise EncoderError(
            "B625",
            f"Sequences of {longest} wordpieces don't fit an encoder for {sequence_limit(model)}.",
            "Set 'lengths' to what it takes.",
        )
    settings = {
        "texts": [str(text) for text in texts],
        "held_out": [str(text) for text in held_out],
        "start": None if start is None else str(start),
        "vocabulary": len(tokenizer),
        "size": dataclasses.asdict(size),
        "objective": dataclasses.asdict(objective),
        "training": {k: v for k, v in dataclasses.asdict(training).items() if k not in _FREE},
        "seed": seed,
    }
    arguments = _arguments(run, training, seed, bool(held_out))
    if arguments.process_index == 0:
        _check_run(run, settings, restart)
    with arguments.main_process_first(desc="the tokenized texts"):
        corpus = open_cache(texts, tokenizer, cache)
        held_out_cache = open_cache(held_out, tokenizer, cache) if held_out else None
    vocabulary = describe_vocabulary(tokenizer)
    plan = make_plan(corpus, vocabulary, objective, training, seed=seed)
    watched = held_out_cache and Sequences(
        held_out_cache,
        vocabulary,
        length=plan.phases[0].sequences.length,
        batch_size=plan.phases[0].batch_size,
        mask_rate=objective.mask_rate,
        pairs=pairs,
        seed=seed,
        shuffled=False,
    )
    arguments.max_steps = plan.steps
    arguments.warmup_steps = round(training.warmup * plan.steps)
    if training.schedule == "warmup_stable_decay":
        arguments.lr_scheduler_kwargs = {"num_decay_steps": round(training.decay * plan.steps)}
    trainer = _make_trainer(model, arguments, plan, watched, objective, training)
    outcome = trainer.run(last_checkpoint(run))
    report = {**settings, "steps": trainer.state.global_step, "n_tokens": plan.n_tokens(0, trainer.state.global_step)}
    report.update(outcome)
    if arguments.process_index == 0:
        model.config.update(stated)
        if start is None and longest < size.max_length:
            cut_positions(model, longest)
            tokenizer.model_max_length = longest
        model.config.sequence_length = _learned_length(model, training, known=0 if start is None else known)
        write_checkpoint(Checkpoint(model.half() if half else model, tokenizer), dest)
        write_json(report, run / "report.json")
    return report


#: Share of the updates that a sequence length needs for its positions to be learned.
_LEARNED_SHARE = 0.3


def _learned_length(model: Any, training: Training, *, known: int) -> int:
    """Return the sequence length that an encoder knows after a training.

    known: The length that it knew before; 0 for an encoder that started from random weights.
    """
    phases = parse_lengths(training.lengths)
    learned = [length for length, share in phases if share >= _LEARNED_SHARE]
    longest = max(learned or [max(phases, key=lambda phase: phase[1])[0]])
    return min(sequence_limit(model), max(longest, known))


#: Settings that may change when a training goes on.
_FREE = ("accumulate", "compile", "eval_every", "save_every", "log_every", "keep", "workers", "report_to", "cpu")


def _check_training(training: Training) -> None:
    if training.precision not in ("fp32", "bf16", "fp16"):
        raise EncoderError("B626", f"There is no precision '{training.precision}'.", "Set it to fp32, bf16 or fp16.")
    on_gpu = torch.cuda.is_available() and not training.cpu
    if not (on_gpu or training.precision == "fp32" or training.precision == "bf16" and cpu_has_bf16()):
        wanted = "a GPU, or a processor that computes in it" if training.precision == "bf16" else "a GPU"
        raise EncoderError(
            "B627", f"{training.precision} wants {wanted}, and there is none.", "Set the precision to fp32."
        )
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    share = training.accumulate * n_processes
    for length, _ in parse_lengths(training.lengths):
        batch_size = training.batch_wordpieces // max(1, length)
        if share < 1 or batch_size < 1 or batch_size % share:
            raise EncoderError(
                "B628",
                f"{n_processes} processes can't share {batch_size} sequences in {training.accumulate} parts.",
                f"Make 'batch_wordpieces' a multiple of {share} times {length}.",
            )


def _check_run(run: Path, settings: Dict[str, Any], restart: bool) -> None:
    """Say whether the folder of a run is for these settings; remember them if it's new."""
    file = run / _SETTINGS
    if restart:
        for folder in run.glob("checkpoint-*"):
            shutil.rmtree(folder)
    elif file.is_file() and any(run.glob("checkpoint-*")):
        before = json.loads(file.read_text(encoding="utf8"))
        changed = [key for key in settings if before.get(key) != settings[key]]
        if changed:
            raise ProjectError(
                "B630",
                f"The folder '{run}' has checkpoints of a run with other settings ({', '.join(changed)}).",
                "Give the same settings to go on with it, --restart to forget it, or another folder with --paths.run.",
            )
    write_json(settings, file)


def last_checkpoint(run: Union[str, Path]) -> Optional[Path]:
    """The newest checkpoint of a run that is complete: its state is written last. None if there is none."""
    found = []
    for folder in Path(run).glob("checkpoint-*"):
        try:
            state = json.loads((folder / _STATE).read_text(encoding="utf8"))
        except (OSError, ValueError):
            continue  # it was being written when the process was stopped
        found.append((state["global_step"], folder))
    return max(found)[1] if found else None


def _arguments(run: Path, training: Training, seed: int, watched: bool) -> TrainingArguments:
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise ProjectError(
            "B631", "Pretraining needs accelerate.", "Install it: pip install 'beto-spacy[pretrain]'."
        ) from error
    report_to = [name.strip() for name in training.report_to.split(",") if name.strip()]
    for name in report_to:
        if name not in ("tensorboard", "wandb") or importlib.util.find_spec(name) is None:
            raise ProjectError(
                "B639",
                f"'{name}' is not there to report to.",
                "Set 'report_to' to tensorboard or wandb, and install it: pip install 'beto-spacy[tracking]'.",
            )
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    on_cpu = training.cpu or not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(run),
        max_steps=1,  # the plan says how many
        per_device_train_batch_size=1,  # the plan's batches are what they are
        gradient_accumulation_steps=training.accumulate,
        learning_rate=training.learn_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=0,
        weight_decay=training.weight_decay,
        adam_beta2=training.beta2,
        adam_epsilon=1e-6,
        max_grad_norm=training.grad_clip,
        optim="adamw_torch_fused",
        bf16=training.precision == "bf16",
        fp16=training.precision == "fp16",
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and n_processes > 1 else None,
        ddp_find_unused_parameters=False,
        average_tokens_across_devices=n_processes > 1,
        dataloader_num_workers=training.workers,
        remove_unused_columns=False,
        ignore_data_skip=True,  # the plan starts where the checkpoint ends
        eval_strategy="steps" if watched else "no",
        eval_steps=training.eval_every,
        save_strategy="steps",
        save_steps=training.eval_every if watched and training.patience else training.save_every,
        save_total_limit=training.keep,
        logging_steps=training.log_every,
        logging_nan_inf_filter=False,  # it would wait for the GPU at each update
        load_best_model_at_end=bool(watched and training.patience),
        metric_for_best_model="eval_loss" if watched else None,
        greater_is_better=False if watched else None,
        report_to=report_to or "none",
        disable_tqdm=True,
        seed=seed,
    )


class _Trainer(Trainer):
    """The Trainer of transformers, with our batches, our loss and our evaluation."""

    def __init__(
        self,
        *,
        plan: Plan,
        watched: Optional[Sequences],
        next_sentence: float,
        training: Training,
        **kwargs: Any,
    ):
        super().__init__(eval_dataset=watched, **kwargs)
        self.plan, self.watched = plan, watched
        self.next_sentence, self.training = next_sentence, training
        self.masked = MaskedPositions(self.model)
        self.model_accepts_loss_kwargs = True  # so that the words of a whole batch are counted, not those of its parts
        self.start = 0
        self.seconds_aside = 0.0

    def get_train_dataloader(self) -> DataLoader:
        sampler = _BatchSampler(
            self.plan, self.start, self.training.accumulate, self.args.process_index, self.args.world_size
        )
        return DataLoader(
            self.plan,
            batch_sampler=sampler,  # type: ignore[arg-type]
            collate_fn=to_tensors,
            num_workers=self.training.workers,
            generator=torch.Generator(),  # it would draw from the one of the model's dropout
            pin_memory=self.args.device.type == "cuda",
        )

    def compute_loss(
        self, model: Any, inputs: Dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum over this part's words by the number of the whole batch's, and λ times the mean over its pairs."""
        labels, follows = inputs.pop("labels"), inputs.pop("next_sentence_label", None)
        scores, pair_scores = predict_masked(model, self.masked, inputs)
        n_words = torch.as_tensor(len(labels) if num_items_in_batch is None else num_items_in_batch)
        loss = F.cross_entropy(scores.float(), labels, reduction="sum") / n_words.clamp(min=1)  # no wait for the GPU
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.args.world_size  # the gradients of the processes are averaged
        if follows is not None:
            loss = loss + self.next_sentence * F.cross_entropy(pair_scores.float(), follows) / self.training.accumulate
        return loss

    def _prepare_inputs(self, inputs: Dict[str, Any]) -> Dict[str, Any]:
        """Move a batch to the device, from pinned memory and without waiting for it."""
        return {name: tensor.to(self.args.device, non_blocking=True) for name, tensor in inputs.items()}

    def evaluate(self, *args: Any, **kwargs: Any) -> Dict[str, float]:
        """Measure the loss on held-out text; each process does so for all of it."""
        begun = time.monotonic()
        assert self.watched is not None
        scores = score_masked(self.model, self.masked, self.watched)
        loss = scores["loss"] + self.next_sentence * scores.get("next_sentence_loss", 0.0)
        metrics = {"eval_loss": loss, **{f"eval_{name}": value for name, value in scores.items() if name != "loss"}}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.seconds_aside += time.monotonic() - begun
        return metrics

    def run(self, checkpoint: Optional[Path]) -> Dict[str, Any]:
        """Train, from a checkpoint on if there is one; evaluate at the end."""
        if checkpoint is not None:
            self.start = json.loads((checkpoint / _STATE).read_text(encoding="utf8"))["global_step"]
        if self.start < self.plan.steps:
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        elif checkpoint is not None:
            self._load_from_checkpoint(str(checkpoint))
            self.state.global_step = self.start
        outcome: Dict[str, Any] = dict(self.progress.outcome)
        if self.watched is not None:
            outcome.update(score_masked(self.model, self.masked, self.watched))
        self.masked.remove()
        return outcome


class _Progress(TrainerCallback):
    """Says how far the training is, its loss and its speed: a bar on a terminal, lines elsewhere."""

    def __init__(self, plan: Plan, trainer: _Trainer, *, warm_up: int = 0):
        self._plan, self._trainer, self._warm_up = plan, trainer, warm_up
        self._bar: Any = None
        self._begun = self._since = 0.0
        self._aside = 0.0
        self._step = 0
        self.outcome: Dict[str, Any] = {}

    def _now(self) -> float:
        return time.monotonic() - self._trainer.seconds_aside

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun = self._since = self._now()
        self._first = self._step = state.global_step
        if args.process_index == 0 and sys.stderr.isatty():
            self._bar = tqdm(total=self._plan.steps, initial=state.global_step, unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._warm_up:  # the first updates are not timed
            self._begun, self._first = self._now(), state.global_step
        if self._bar is not None:
            self._bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if args.process_index or not logs:
            return
        if "eval_loss" in logs:
            self._write(
                f"step {state.global_step:>7,}  held-out: "
                + "  ".join(
                    f"{name[5:].replace('_', ' ')} {value:.4f}" for name, value in logs.items() if name != "epoch"
                )
            )
        elif "loss" in logs:
            now = self._now()
            speed = self._plan.n_tokens(self._step, state.global_step) / max(1e-9, now - self._since)
            left = (self._plan.steps - state.global_step) * (now - self._begun) / (state.global_step - self._first)
            self._step, self._since = state.global_step, now
            logs["tokens_per_second"] = round(speed)
            self._write(
                f"step {state.global_step:>7,} of {self._plan.steps:,}  loss {logs['loss']:.4f}  rate "
                f"{logs['learning_rate']:.2e}  {speed:,.0f} tokens a second  {left / 60:,.0f} minutes left"
            )

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.close()
        seconds = self._now() - self._begun
        n_tokens = self._plan.n_tokens(self._first, state.global_step)
        self.outcome = {"seconds": round(seconds, 1), "tokens_per_second": round(n_tokens / max(1e-9, seconds))}


def _make_trainer(
    model: Any,
    arguments: TrainingArguments,
    plan: Plan,
    watched: Optional[Sequences],
    objective: Objective,
    training: Training,
    warm_up: int = 0,
) -> _Trainer:
    if training.compile:
        _compile(model)
    trainer = _Trainer(
        model=model,
        args=arguments,
        plan=plan,
        watched=watched,
        next_sentence=objective.next_sentence,
        training=training,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.progress = _Progress(plan, trainer, warm_up=warm_up)
    trainer.add_callback(trainer.progress)
    if training.patience:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=training.patience))
    return trainer


def _compile(model: Any) -> None:
    """Have the layers compiled, for each length of sequences there is; what is compiled for one layer serves all."""
    base = getattr(model, model.base_model_prefix)
    modules = dict(base.named_modules())
    for layer in next(modules[name] for name in LAYERS if name in modules):
        layer.compile(dynamic=False)


def pretrain_from_config(
    config: Union[str, Path],
    dest: Union[str, Path],
    *,
    overrides: Optional[Dict[str, Any]] = None,
    restart: bool = False,
) -> Dict[str, Any]:
    """Pretrain as a config says (``configs/pretrain.cfg``): see `pretrain`, `Size`, `Objective` and `Training`.

    config: The file.
    overrides: Values by section and name, such as ``{"training.steps": 1000}``.
    Returns what `pretrain` does. Raises ProjectError for a config that can't be read or has other fields, and all that
    `pretrain` raises.
    """
    read = _read_config(Path(config), overrides or {})
    paths, seed = read["paths"], read["system"]["seed"]
    dest = Path(dest)
    run = Path(paths["run"] or dest.with_name(dest.name + ".run"))
    texts, held_out = expand(paths["texts"]), expand(paths["held_out"])
    tokenizer = None
    if paths["start"] is None:
        tokenizer = _tokenizer(texts, paths["vocabulary"], read["vocabulary"]["size"], run)
    return pretrain(
        texts,
        dest,
        held_out=held_out,
        start=paths["start"],
        tokenizer=tokenizer,
        size=Size(**read["encoder"]),
        objective=Objective(**read["objective"]),
        training=Training(**read["training"]),
        run=run,
        cache=paths["cache"],
        half=read["output"]["half"],
        seed=seed,
        restart=restart,
    )


_SECTIONS = {
    "paths": ("texts", "held_out", "start", "vocabulary", "cache", "run"),
    "vocabulary": ("size",),
    "encoder": Size,
    "objective": Objective,
    "training": Training,
    "output": ("half",),
    "system": ("seed",),
}


def _read_config(path: Path, overrides: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    return read_settings(path, _SECTIONS, example="configs/pretrain.cfg", overrides=overrides)


def _tokenizer(texts: Sequence[Path], vocabulary: Optional[str], size: int, run: Path) -> Any:
    """The tokenizer of an encoder that is built; a vocabulary that is trained is kept in the run's folder."""
    if vocabulary is not None and Path(vocabulary).is_file():
        from beto_spacy.training.vocabulary import load_vocabulary

        return load_vocabulary(vocabulary)
    if vocabulary is not None:
        with quiet_hub():
            try:
                folder = vocabulary if Path(vocabulary, "tokenizer.json").is_file() else resolve_encoder(vocabulary)
                return AutoTokenizer.from_pretrained(folder, use_fast=True)
            except (OSError, ValueError) as error:
                raise EncoderError(
                    "B638",
                    f"There is no tokenizer in '{vocabulary}' ({str(error).splitlines()[0]}).",
                    "Give a vocab.txt, or a folder that has a tokenizer.json.",
                ) from error
    place = run / f"vocabulary-{identify(texts, str(size))}"
    if int(os.environ.get("LOCAL_RANK", "0")):  # the first process of each machine trains it for the others
        while not place.is_dir():
            time.sleep(1)
    elif not place.is_dir():
        from beto_spacy.training.vocabulary import Texts, train_vocabulary

        tokenizer = train_vocabulary(Texts(texts), size=size)
        with new_folder(place) as part:
            tokenizer.save_pretrained(part)
    return AutoTokenizer.from_pretrained(place)


@_own_precision()
def measure_throughput(
    texts: Sequence[Union[str, Path]],
    tokenizer: Any,
    *,
    size: Size,
    objective: Objective,
    training: Training,
    steps: int = 30,
    runs: int = 3,
) -> Dict[str, Any]:
    """Measure wordpieces a second of the pretraining, and of a bare loop of the same model that is fed random numbers.

    They run alternately, on the first of the training's lengths. The first third of the updates of each run is not
    timed. Padding counts for neither: the bare loop has none.

    texts: Running text.
    tokenizer: A fast tokenizer.
    size, objective, training: As in `pretrain`.
    steps: Updates a run.
    runs: Runs of each.
    Returns the wordpieces a second of each run, and the ratios by pair of runs with their median.
    """
    _check_training(training)
    length = parse_lengths(training.lengths)[0][0]
    training = dataclasses.replace(training, steps=steps, lengths=str(length), save_every=10**9, log_every=10**9)
    vocabulary = describe_vocabulary(tokenizer)
    speeds: Dict[str, List[float]] = {"bare": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(open_cache(texts, tokenizer, folder), vocabulary, objective, training, seed=0)
        for _ in range(runs):
            for name in speeds:
                model = build_masked_model(tokenizer, size, next_sentence=objective.next_sentence > 0, seed=0)
                set_dropout(model, training.dropout)
                arguments = _arguments(Path(folder), training, 0, False)
                arguments.max_steps = steps
                arguments.save_strategy = "no"
                if name == "ours":
                    trainer = _make_trainer(model, arguments, plan, None, objective, training, warm_up=steps // 3)
                    speeds[name].append(trainer.run(None)["tokens_per_second"])
                else:
                    speeds[name].append(_bare_loop(model, arguments, plan.phases[0], objective, training, steps))
    ratios = [ours / bare for ours, bare in zip(speeds["ours"], speeds["bare"])]
    return {
        "length": length,
        "batch_wordpieces": training.batch_wordpieces,
        "size": dataclasses.asdict(size),
        "threads": torch.get_num_threads(),
        "steps": steps,
        "tokens_per_second": speeds,
        "ratios": [round(ratio, 4) for ratio in ratios],
        "ratio": round(statistics.median(ratios), 4),
    }


def _bare_loop(
    model: Any, arguments: TrainingArguments, phase: _Phase, objective: Objective, training: Training, steps: int
) -> float:
    """Wordpieces a second of updates with random wordpieces, full sequences, and nothing else."""
    if training.compile:
        _compile(model)
    device = arguments.device
    model.to(device).train()
    masked = MaskedPositions(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    size, length = phase.batch_size // training.accumulate, phase.sequences.length
    n_masked = max(1, int(objective.mask_rate * size * length))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training.precision)
    begun = 0.0
    for step in range(steps):
        if step == steps // 3:
            _wait_for(device)
            begun = time.monotonic()
        for _ in range(training.accumulate):
            ids = torch.randint(model.config.vocab_size, (size, length), device=device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
            inputs["positions"] = torch.randperm(size * length, device=device)[:n_masked]
            labels = torch.randint(model.config.vocab_size, (n_masked,), device=device)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                scores, pair_scores = predict_masked(model, masked, inputs)
                loss = F.cross_entropy(scores.float(), labels)
                if pair_scores is not None:
                    loss = loss + F.cross_entropy(pair_scores.float(), labels.new_zeros(size))
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
    _wait_for(device)
    masked.remove()
    return round((steps - steps // 3) * training.accumulate * size * length / (time.monotonic() - begun))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def render_throughput(result: Dict[str, Any]) -> str:
    """A Markdown table of what `measure_throughput` found."""
    lines = ["| run | bare loop | pretraining | ratio |", "| ---: | ---: | ---: | ---: |"]
    speeds = result["tokens_per_second"]
    for run, (bare, ours, ratio) in enumerate(zip(speeds["bare"], speeds["ours"], result["ratios"]), 1):
        lines.append(f"| {run} | {bare:,.0f} | {ours:,.0f} | {ratio:.2f} |")
    return "\n".join([*lines, "", f"Wordpieces a second; the median of the ratios is {result['ratio']:.2f}."])


def measure_throughput_from_config(
    config: Union[str, Path], *, overrides: Optional[Dict[str, Any]] = None, runs: int = 3
) -> Dict[str, Any]:
    """Do `measure_throughput` with the texts, the size and the training of a config."""
    read = _read_config(Path(config), overrides or {})
    texts = expand(read["paths"]["texts"])
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = _tokenizer(texts, read["paths"]["vocabulary"], read["vocabulary"]["size"], Path(folder))
    return measure_throughput(
        texts,
        tokenizer,
        size=Size(**read["encoder"]),
        objective=Objective(**read["objective"]),
        training=Training(**read["training"]),
        runs=runs,
    )
