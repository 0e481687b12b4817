"""Settings of the stages of a trial.

Defaults are those of the paper (Sun et al. 2019, section 5.1) if it states one. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from trainables.settings import corpus_names
from trainables.settings.base import Positive, Settings, Share


class Optimisation(Settings):
    """Settings of every training stage: AdamW with decoupled weight decay, and the learning rate schedule."""

    coupled: ClassVar[tuple[str, ...]] = ()
    """Fields that are checked against each other: only their combinations can be invalid where each value is valid."""
    not_identity: ClassVar[tuple[str, ...]] = ("name",)
    """Fields that do not determine the result."""
    scored: ClassVar[tuple[str, ...]] = ()
    """What each of its evaluations measures, beside what those of every kind do."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-5
    """Peak learning rate, of the top layer and the head."""
    batch_size: Annotated[int, Field(ge=1)] = 24
    """Sequences per optimizer step, over all micro-batches and workers."""
    warmup: Share = 0.1
    """Share of the steps in which the rate rises from 0 to its peak."""
    schedule: Literal["linear", "slanted", "cosine", "constant"] = "linear"
    """After the warm-up: linear to 0; slanted: ULMFiT's triangle, from 1/32 and back to 1/32; half a cosine to 0; constant."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay of all weights except biases and LayerNorm."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Adam's decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Adam's decay of the second moment."""
    epsilon: Positive = 1e-6
    """Adam's epsilon, BERT's value."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the whole gradient; 0: no clipping."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout of hidden states, attention probabilities and the head."""

    @property
    def switched_off(self) -> tuple[str, ...]:
        """Fields that play no part, since others switch them off."""
        return ()

    @property
    def trains(self) -> bool:
        """Whether the stage has any training step."""
        return True


class Pretrain(Optimisation):
    """Further pre-training on unlabelled texts (Sun et al. 2019, section 5.4; Gururangan et al. 2020)."""

    coupled = ("steps", "schedule_steps", "epochs", "select", "corpus", "objective", "whole_word", "masking")
    not_identity = ("name", "steps", "epochs", "corpus")

    name: str = "pretrain"
    """Name of the stage in space and records."""
    kind: Literal["pretrain"] = "pretrain"
    """Kind of stage."""
    corpus: tuple[str, ...] = ()
    """Texts to train on: `within-task` (the target's own training texts; also the meaning of an empty list), `in-domain` (those of
    all tasks with the target's `domain`), `cross-domain` (those of all tasks), names of tasks, and text files: local paths or
    fsspec URLs. A .txt file has one document per line, or documents between blank lines if it has any; csv, tsv, jsonl and parquet
    files need a column `text`. Near copies of validation and test texts of all tasks are removed, also if they are lines, sentences
    or paragraphs of a longer text; single words only as whole lines."""
    select: Literal["all", "nearest", "random"] = "all"
    """Selection from the corpus (Gururangan et al. 2020, section 5.2): all texts; the texts nearest to the target's training texts;
    or, as control, the same number of random texts, drawn by `seed`. Only texts that are not the target's own are selected; the
    target's own are added if the corpus names them, as in `[within-task, pool.txt]`."""
    neighbours: Annotated[int, Field(ge=1)] = 50
    """Number of nearest texts by cosine that every training text of the target selects; the union is used. The paper has 50, 150,
    500. A text with a cosine of 0, such as without a common word, is not selected."""
    embeddings: Literal["tfidf", "encoder"] = "tfidf"
    """Vectors for the comparison: TF-IDF of words; or the mean over a text's pieces of the last layer of the recipe's encoder,
    which also suits languages without spaces."""
    objective: Literal["mlm", "mlm+nsp"] = "mlm"
    """mlm: masked language modelling. mlm+nsp: with next-sentence prediction, as BERT was pre-trained; the loss is the sum of both.
    If nearly all texts are single sentences, next-sentence prediction is off, with a notice."""
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")] = "en"
    """Language code for splitting into sentences, for mlm+nsp; `en` suits Chinese as well."""
    steps: Annotated[int, Field(ge=0)] = 100_000
    """Length of the training, in optimizer steps; 0 leaves the encoder unchanged."""
    schedule_steps: Annotated[int, Field(ge=1)] = 100_000
    """Length of the schedule, in optimizer steps. All values of `steps` are milestones of the same trajectory."""
    epochs: Positive | None = None
    """Passes over the corpus, instead of `steps` and `schedule_steps`. The number of steps is computed for one sequence per text
    and a short last batch per pass. Texts that are cut into several sequences give fewer passes, a corpus smaller than a batch
    more, since batches are always full. Every value is a trajectory of its own. null: `steps` applies."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    """Peak learning rate."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Sequences per optimizer step, over all micro-batches and workers."""
    max_length: Annotated[int, Field(ge=8)] = 128
    """Longest sequence, in pieces, special tokens included; longer texts are cut into several sequences."""
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the pieces to predict: 80 % become [MASK], 10 % a random piece, 10 % stay."""
    whole_word: bool = False
    """Mask whole words instead of single pieces."""
    masking: Literal["random", "selective", "matched"] = "random"
    """random: random pieces are predicted. selective: the pieces marked by the `marks` stage before this one (Gu et al. 2020), at
    most `mask_share` of a sequence, those with the largest logits, but at least one. matched: control, the same number of random
    pieces per sequence. With selective and matched, sequences without a marked piece are skipped."""
    seed: int = 0
    """Seed of masks, order and dropout. It is independent of the trial's seed, so that all seeds share the trajectory."""

    @property
    def switched_off(self) -> tuple[str, ...]:
        """Fields that play no part, since others switch them off."""
        return _fields(
            (self.objective == "mlm", ("objective", "language")),
            (self.select == "all", ("select", "neighbours", "embeddings")),
        )

    @property
    def trains(self) -> bool:
        """Whether the stage has any training step."""
        return self.epochs is not None or self.steps > 0

    def counted(self, texts: int) -> Pretrain:
        """The stage with steps instead of `epochs`, for a corpus of this many texts."""
        if self.epochs is None:
            return self
        steps = max(1, round(-(-texts // self.batch_size) * self.epochs))
        return self.model_copy(update={"steps": steps, "schedule_steps": steps, "epochs": None})

    @model_validator(mode="after")
    def _within_schedule(self) -> Pretrain:
        if self.epochs is None:
            if self.steps > self.schedule_steps:
                raise ValueError(f"steps is {self.steps}, but schedule_steps, the length of the schedule, is {self.schedule_steps}")
            return self
        for name in ("steps", "schedule_steps"):
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is {value}, but epochs, {self.epochs:g}, replaces it; to use steps, set epochs: null")
        return self

    @model_validator(mode="after")
    def _selectable(self) -> Pretrain:
        if self.select == "all":
            return self
        if self.epochs is not None:
            raise ValueError(
                f"epochs is {self.epochs:g}, but how many texts select {self.select} leaves is known only when they are selected:"
                " give steps and schedule_steps"
            )
        if set(self.corpus) <= {corpus_names.WITHIN_TASK}:
            raise ValueError(
                f"select is {self.select}, but the corpus has only the target's own texts: name what to select from, such as"
                " corpus: [within-task, pool.txt]"
            )
        return self

    @model_validator(mode="after")
    def _pieces_by_marks(self) -> Pretrain:
        if self.masking == "random":
            return self
        if self.objective != "mlm":
            raise ValueError(
                f"masking {self.masking} supports only objective mlm: marks are those of whole texts, not of pairs of chunks"
            )
        if self.whole_word:
            raise ValueError(f"whole_word draws words, but masking {self.masking} takes pieces by their marks: give one of them")
        return self


class Marks(Optimisation):
    """Mark the words that matter to the task, for selective masking (Gu et al. 2020). A scorer is fine-tuned on the task and scores
    the words of its training texts; then a marker, which classifies pieces, learns the important ones. The result is marks, not
    weights: the next stage starts from the weights from which this stage started."""

    scored = ("mark_f1",)

    name: str = "marks"
    """Name of the stage in space and records."""
    kind: Literal["marks"] = "marks"
    """Kind of stage."""
    scorer_epochs: Annotated[int, Field(ge=1)] = 4
    """Passes of the scorer over all training texts of the task, independent of a later stage's `train_share`."""
    scorer_learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-5
    """Peak learning rate of the scorer."""
    threshold: Annotated[float, Field(gt=-1, le=1)] = 0.05
    """The paper's delta: a word is important if the probability of the text's class drops by less than this when the text is
    reduced to this word and the unimportant words before it. The paper has .05, its scripts .01."""
    scored_texts: Annotated[int, Field(ge=2)] | None = None
    """Number of training texts to score, drawn by `seed`; null: all."""
    stop_words: Literal["english", "none"] = "english"
    """Words that are never important: scikit-learn's list for English, or none."""
    max_length: Annotated[int, Field(ge=4)] = 256
    """Longest sequence, in pieces, special tokens included: scorer and marker read the beginning of a longer text."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """Peak learning rate of the marker."""
    epochs: Annotated[int, Field(ge=1)] = 10
    """Epochs of the marker, each as long as a pass over the scored texts that are not held out; it learns only from those that the
    scorer classifies correctly. The weights of the epoch with the best F1 of important pieces on the held-out texts are kept."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the scored texts that is held out to choose these weights, drawn by `seed`."""
    mark_weight: Positive = 3.0
    """Weight of an important piece in the marker's loss; other pieces have weight 1."""
    seed: int = 0
    """Seed of scorer, marker and draws. It is independent of the trial's seed, so that all seeds share the stage."""

    @property
    def scorer(self) -> Finetune:
        """The fine-tuning stage of the scorer; shared settings are those of this stage."""
        own = {name: getattr(self, name) for name in Optimisation.model_fields}
        changed = {"learning_rate": self.scorer_learning_rate, "epochs": self.scorer_epochs, "max_length": self.max_length}
        return Finetune(**own | changed | {"name": f"{self.name}.scorer", "truncation": "head"})


class Finetune(Optimisation):
    """Fine-tuning on a task (Sun et al. 2019, sections 5.1-5.3)."""

    coupled = (
        *("max_length", "truncation", "head_tokens", "pooling", "layers", "combine"),
        *("freeze", "unfreeze_layers", "reinit_layers", "lora_rank", "train_share", "train_examples"),
    )
    scored = ("error_rate_percent",)

    name: str = "finetune"
    """Name of the stage in space and records."""
    kind: Literal["finetune"] = "finetune"
    """Kind of stage."""
    epochs: Annotated[int, Field(ge=1)] = 4
    """Passes over the training split, with a validation after each."""
    evaluations_per_epoch: Annotated[int, Field(ge=1)] = 1
    """Validations per epoch, at even distances, the last at its end: for curves with points within epochs (Sun et al. 2019, figure
    2). Above 1 the error on training texts is measured too, on as many texts as the validation split has. The weights do not depend
    on it."""
    max_length: Annotated[int, Field(ge=4)] = 512
    """Longest sequence, in pieces, special tokens included."""
    truncation: Literal["head", "tail", "head+tail", "hier-mean", "hier-max", "hier-attention"] = "head+tail"
    """Truncation of a text that is too long: its first pieces are kept, its last, or both ends; hier-*: all pieces, in fractions
    that are encoded separately, and whose vectors are joined by mean, maximum or self-attention. In a pair the longer text loses
    pieces until both fit; hier-* supports only single texts."""
    max_fractions: Annotated[int, Field(ge=1)] = 95
    """Largest number of fractions of a text with hier-*; the rest is cut off and counted."""
    head_tokens: Annotated[int, Field(ge=1)] | None = None
    """Pieces kept from the beginning with head+tail; the others come from the end. null: the paper's proportion, 128 of 510, of
    `max_length` less two special tokens, rounded. In a pair every text that is cut keeps this many, or all but one of its share."""
    xi: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Layer-wise decay factor: a layer's rate is xi times that of the layer above."""
    xi_variant: Literal["consistent", "published"] = "consistent"
    """consistent: embeddings one step below the lowest layer. published: embeddings undecayed, as in the paper's code."""
    layer_rates: Literal["decay", "thirds"] = "decay"
    """decay: decay by `xi` per layer. thirds: the rate divided by `thirds_factor` in the lower third of the layers, unchanged in
    the middle, multiplied in the upper."""
    thirds_factor: Annotated[float, Field(ge=1)] = 2.6
    """Factor between the rates of the thirds (Howard and Ruder 2018, section 3.2)."""
    head_learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate of the head; null: that of the top layer."""
    freeze: Literal["none", "embeddings", "encoder"] | Annotated[int, Field(ge=1)] = "none"
    """Frozen parts: none, the embeddings, the whole encoder, or the embeddings and this number of the lowest layers."""
    unfreeze_layers: Annotated[int, Field(ge=0)] = 0
    """Gradual unfreezing (Howard and Ruder 2018, section 3.3): the first epoch trains only the head, every later one this number of
    further layers from the top, and finally the embeddings. 0: everything is trained from the start."""
    reinit_layers: Annotated[int, Field(ge=0)] = 0
    """Number of topmost layers that start from new random weights (Zhang et al. 2021, section 5)."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of low-rank adapters (Hu et al. 2021), which are trained instead of the encoder's weights and merged into them at the
    end; the head is trained as usual. 0: no adapters. Use larger learning rates, such as 2e-4. Needs the extra `lora`."""
    lora_alpha: Positive = 16.0
    """An adapter's output is multiplied by this and divided by `lora_rank`."""
    lora_targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the linear layers in a block that get adapters, such as query and value; null: queries and values of attention if
    peft knows their names, else all linear layers of the blocks. A notice names them."""
    pooling: Literal["pooled", "cls", "mean", "bilstm"] = "pooled"
    """Text vector: [CLS] after the encoder's dense tanh pooler, raw [CLS], the mean over the pieces, or the output of a biLSTM with
    self-attention over all pieces, special tokens included (Lin et al. 2017). bilstm with `freeze: encoder` is BERT-Feat."""
    lstm_width: Annotated[int, Field(ge=1)] = 300
    """Units of the biLSTM in each direction: u of Lin et al. 2017, section 4."""
    attention_width: Annotated[int, Field(ge=1)] = 350
    """Units within the biLSTM's self-attention: d_a of Lin et al."""
    attention_hops: Annotated[int, Field(ge=1)] = 30
    """Number of weighted sums of a text's pieces that are concatenated to its vector: r of Lin et al."""
    attention_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the penalty ||A A' - I||^2 per text, which keeps the hops different (Lin et al., section 2.2)."""
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    """Layers that form the text vector: 0 is the output of the first block, -1 that of the last."""
    combine: Literal["concat", "mean", "max"] = "concat"
    """How several layers are joined."""
    head: Literal["linear", "mlp"] = "linear"
    """Head on the text vector: a linear layer, or two with ReLU and dropout between."""
    head_width: Annotated[int, Field(ge=1)] = 50
    """Units between the two layers of the head mlp."""
    head_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout in the head; null: that in `dropout`."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread evenly over all classes, or in a multi-label task over yes and no of each label."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: texts are weighted in inverse proportion to the size of their class in the training split; in a multi-label task
    the texts with a label have the same total weight as those without."""
    thresholds: Literal["half", "one", "per-label"] = "one"
    """Least probability for the prediction of a label in a multi-label task. half: .5. one: one threshold that maximises micro-F1
    on the validation split. per-label: a threshold per label that maximises its F1."""
    train_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training texts to use: stratified, drawn by the trial's seed; a smaller share is part of a larger one."""
    train_examples: Annotated[int, Field(ge=2)] | None = None
    """Number of training texts to use, drawn like `train_share`; null: all."""

    @property
    def switched_off(self) -> tuple[str, ...]:
        """Fields that play no part, since others switch them off."""
        return _fields(
            (self.truncation != "head+tail", ("head_tokens",)),
            (self.fractions is None, ("max_fractions",)),
            (self.layer_rates == "thirds", ("xi",)),
            (self.layer_rates == "decay", ("thirds_factor",)),
            (self.layer_rates == "decay" and self.xi == 1, ("xi_variant",)),
            (not self.lora_rank, ("lora_alpha", "lora_targets")),
            (self.head == "linear", ("head_width",)),
            (len(self.layers) == 1, ("combine",)),
            (self.pooling != "bilstm", ("lstm_width", "attention_width", "attention_hops", "attention_penalty")),
        )

    @property
    def fractions(self) -> str | None:
        """How the vectors of a text's fractions are joined: mean, max, attention; None if texts are truncated."""
        return self.truncation.removeprefix("hier-") if self.truncation.startswith("hier-") else None

    @property
    def fixed_encoder(self) -> bool:
        """Whether the encoder's outputs are the same in every epoch and trial: nothing in it is trained or reinitialised."""
        return self.freeze == "encoder" and not self.reinit_layers

    def layer_faults(self, blocks: int) -> list[str]:
        """Faults for layers that an encoder with this number of blocks does not have; they begin with the field."""
        wrong = [layer for layer in self.layers if not -blocks <= layer < blocks]
        if wrong:
            allowed = f"0 to {blocks - 1}, or from -1, the last, to {-blocks}, the first"
            return [f"layers: {', '.join(map(str, wrong))} given, but the encoder has the layers {allowed}"]
        depth = max(layer % blocks for layer in self.layers) + 1
        counts = {"freeze": self.freeze, "reinit_layers": self.reinit_layers}
        return [
            f"{name}: {count} layers given, but {depth} are used, of the encoder's {blocks}"
            for name, count in counts.items()
            if isinstance(count, int) and count > depth
        ]

    @model_validator(mode="after")
    def _one_vector(self) -> Finetune:
        if self.pooling == "pooled" and self.combine == "concat" and len(self.layers) > 1:
            raise ValueError(
                f"layers {', '.join(map(str, self.layers))} with combine concat are wider than what pooling pooled, the encoder's"
                " own pooler, takes: use pooling cls or mean, or combine mean or max"
            )
        return self

    @model_validator(mode="after")
    def _pieces_in_one_row(self) -> Finetune:
        if self.pooling == "bilstm" and self.fractions is not None:
            raise ValueError(
                f"pooling bilstm reads all pieces of a text in a row, but truncation {self.truncation} makes fractions and joins a"
                " vector of each: use truncation head, tail or head+tail, or pooling pooled, cls or mean"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> Finetune:
        if self.unfreeze_layers and self.freeze == "encoder":
            raise ValueError(
                f"unfreeze_layers is {self.unfreeze_layers}, but freeze encoder keeps all layers frozen: give one of them"
            )
        return self

    @model_validator(mode="after")
    def _adapters_alone(self) -> Finetune:
        others = {"freeze": self.freeze != "none", "unfreeze_layers": self.unfreeze_layers, "reinit_layers": self.reinit_layers}
        if self.lora_rank and any(others.values()):
            set_too = " and ".join(f"{name} {getattr(self, name)}" for name, value in others.items() if value)
            raise ValueError(
                f"lora_rank is {self.lora_rank}, which freezes the encoder's own weights and trains adapters in all its layers, but"
                f" {set_too} given: take one or the other"
            )
        return self

    @model_validator(mode="after")
    def _one_size(self) -> Finetune:
        if self.train_examples is not None and self.train_share != 1:
            raise ValueError(f"train_examples is {self.train_examples} and train_share {self.train_share:g}: give one of them")
        return self

    @model_validator(mode="after")
    def _head_in_budget(self) -> Finetune:
        _check_head(self)
        return self


class Multitask(Optimisation):
    """Fine-tuning on several tasks at once: a shared encoder, a linear head per task (Sun et al. 2019, sections 3.3 and 5.5)."""

    coupled = ("max_length", "truncation", "head_tokens")
    not_identity = ("name", "tasks")
    scored = ("by_task",)

    name: str = "multitask"
    """Name of the stage in space and records."""
    kind: Literal["multitask"] = "multitask"
    """Kind of stage."""
    tasks: tuple[str, ...] = ()
    """Names of tasks, whose training texts are used without copies of any task's validation or test texts, independent of a later
    stage's `train_share`. Empty: all tasks."""
    sampling: Literal["proportional", "sqrt", "even"] = "proportional"
    """A batch is of one task, which is drawn in proportion to its number of training texts, to the square root of it, or evenly."""
    epochs: Annotated[int, Field(ge=1)] = 4
    """Number of epochs. One has as many steps as a pass over the training texts of all tasks, with a validation at its end."""
    max_length: Annotated[int, Field(ge=4)] = 512
    """Longest sequence, in pieces, special tokens included."""
    truncation: Literal["head", "tail", "head+tail"] = "head+tail"
    """Truncation of a text that is too long: its first pieces are kept, its last, or both ends. In a pair the longer text loses
    pieces until both fit."""
    head_tokens: Annotated[int, Field(ge=1)] | None = None
    """Pieces kept from the beginning with head+tail; the others come from the end. null: the paper's proportion, 128 of 510, of
    `max_length` less two special tokens, rounded. In a pair every text that is cut keeps this many, or all but one of its share."""
    xi: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Layer-wise decay factor: a layer's rate is xi times that of the layer above."""
    xi_variant: Literal["consistent", "published"] = "consistent"
    """consistent: embeddings one step below the lowest layer. published: embeddings undecayed, as in the paper's code."""
    pooling: Literal["pooled", "cls", "mean"] = "pooled"
    """Text vector: [CLS] after the encoder's dense tanh pooler, raw [CLS], or the mean over the pieces."""
    seed: int = 0
    """Seed of heads, tasks, order and dropout. It is independent of the trial's seed, so that all seeds share the stage."""

    @property
    def switched_off(self) -> tuple[str, ...]:
        """Fields that play no part, since others switch them off."""
        return _fields((self.truncation != "head+tail", ("head_tokens",)), (self.xi == 1, ("xi_variant",)))

    @model_validator(mode="after")
    def _head_in_budget(self) -> Multitask:
        _check_head(self)
        return self


def head_in_proportion(max_length: int) -> int:
    """Pieces from the beginning of a text in the paper's proportion: 128 of 510 (Sun et al. 2019, section 5.3.1), at least one."""
    return max(1, (2 * 128 * (max_length - 2) + 510) // (2 * 510))  # in integers, which cannot overflow


def _check_head(stage: Finetune | Multitask) -> None:
    """Fill in a missing `head_tokens`. Raises ValueError if head+tail has no room for the end of a text."""
    if stage.head_tokens is None:
        object.__setattr__(stage, "head_tokens", head_in_proportion(stage.max_length))  # frozen, but still under construction
    budget = stage.max_length - 2
    if stage.truncation == "head+tail" and (stage.head_tokens or 0) >= budget:
        raise ValueError(
            f"head_tokens is {stage.head_tokens}, but max_length {stage.max_length} leaves {budget} pieces beside the special"
            f" tokens, of which head+tail keeps at least one from the end: head_tokens must be at most {budget - 1}"
        )


def _fields(*cases: tuple[bool, Iterable[str]]) -> tuple[str, ...]:
    """The fields of the cases that hold."""
    return tuple(field for holds, fields in cases if holds for field in fields)


Stage = Annotated[Pretrain | Multitask | Marks | Finetune, Field(discriminator="kind")]
KINDS: dict[str, type[Stage]] = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(Stage)[0])}
"""{kind of stage, as a recipe names it: its model}. What a kind does stands in `JOBS` of `trainables/stages/jobs.py`."""
