"""Settings of the stages of a trial: fine-tuning on a task, on several tasks, marks for selective masking; the table of all kinds.

Further pre-training is in `pretraining.py`, what all stages have in `base.py`. Defaults are those of the paper (Sun et al. 2019,
section 5.1) if it states one. Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from trainables.settings.base import Optimisation, Positive, switched
from trainables.settings.pretraining import Pretrain


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
    """Names of the linear layers in a block that get adapters, such as query and value; null: queries and values of attention
    for BERT, RoBERTa, ELECTRA and DeBERTa, else all linear layers of the blocks. A notice names them."""
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
        return switched(
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
        return switched((self.truncation != "head+tail", ("head_tokens",)), (self.xi == 1, ("xi_variant",)))

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


Stage = Annotated[Pretrain | Multitask | Marks | Finetune, Field(discriminator="kind")]
SETTINGS: dict[str, type[Stage]] = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(Stage)[0])}
"""{kind of stage, as a recipe names it: its model}. What a kind does is in `KINDS` of `trainables/stages/kinds.py`."""
