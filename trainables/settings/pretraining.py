"""Settings of further pre-training. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainables.settings import corpus_names
from trainables.settings.base import Optimisation, Positive, switched


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
        return switched(
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
