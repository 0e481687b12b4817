"""Tiny real parts that the tests share: a two-layer BERT from scratch and slices of the shipped reviews."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from trainables.settings.encoder import Encoder
from trainables.settings.pretraining import Pretrain
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune, Marks, Multitask
from trainables.settings.task import Task
from trainables.store.store import Artifact

TEXTS = Path(__file__).parent.parent / "trainables" / "texts"

SHARED_RAY = Path("/tmp/ray")
"""Where Ray keeps what is not told to lie elsewhere; a Ray of the user's lives there."""


def shared_ray() -> tuple[bool, str | None]:
    """(whether Ray's shared folder is there, the address in it that `auto` would join)."""
    address = SHARED_RAY / "ray_current_cluster"
    return SHARED_RAY.exists(), address.read_text() if address.exists() else None


def ray_elsewhere(folder: Path) -> dict[str, str]:
    """Variables with which Ray's own commands and `Cluster` keep everything below `folder`, which must have a short path."""
    (folder / "ray").mkdir(parents=True, exist_ok=True)
    return {"RAY_TMPDIR": str(folder)}


TINY_BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
"""Fields of a BERT configuration that trains in milliseconds."""


def tiny_encoder(**changes: Any) -> Encoder:
    """A two-layer BERT from scratch with a vocabulary trained on the task's texts."""
    return Encoder(config=TINY_BERT | changes, vocabulary=400)


def reviews(name: str = "sls_imdb", split: str = "train", limit: int | None = None) -> list[tuple[str, str]]:
    """(text, label) rows of a shipped set."""
    with open(TEXTS / name / f"{split}.csv", encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    return rows[:limit]


def write_csv(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> str:
    """Write rows as csv and return the path as a setting takes it."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def chinese_reviews(count: int) -> list[tuple[str, str]]:
    """(review of a hotel in Chinese with some English, 1 to 5 stars), no two alike."""
    good = [
        "房间很干净",
        "服务员特别热情",
        "早餐种类丰富",
        "离地铁站很近",
        "床睡得很舒服",
        "WiFi很快",
        "下次还会再来",
        "性价比挺高",
    ]
    bad = [
        "隔音实在太差",
        "空调一直漏水",
        "前台态度冷淡",
        "卫生间有股怪味",
        "等了半个小时才入住",
        "check-in很慢",
        "再也不来了",
        "不值这个价",
    ]
    rows = []
    for number in range(count):
        happy, digits = number % 2 == 0, [number // 2 // 8**place % 8 for place in range(3)]
        parts = [(good if happy or place == 1 else bad)[(digit + 3 * place) % 8] for place, digit in enumerate(digits)]
        rows.append(("，".join(parts) + "。！"[number % 3 == 0], str(4 + digits[0] % 2 if happy else 1 + digits[0] % 2)))
    return rows


def word_pieces(folder: Path) -> Encoder:
    """An encoder from scratch with a tokenizer of word pieces: the characters of these reviews, and little English."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    characters = sorted({character for text, _ in chinese_reviews(64) for character in text if not character.isascii()})
    pieces = [*special.values(), *characters, "Wi", "##Fi", "check", "-", "in"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)  # puts spaces around Chinese characters
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    return Encoder(config=TINY_BERT | {"vocab_size": len(pieces)}, tokenizer=str(folder))


def documents_file(folder: Path, *sizes: int) -> str:
    """Write a text file with documents of so many reviews each, one a line, and return its path."""
    rows = iter(reviews())
    lines = [" ".join(next(rows)[0] for _ in range(size)) for size in sizes]
    (folder / "documents.txt").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "documents.txt")


def tiny_task(folder: Path, name: str = "sls_imdb", train: int = 60, test: int = 24, **changes: Any) -> Task:
    """A slice of a shipped set as a user's own csv files, a quarter of its training split held out for validation."""
    files = {
        split: write_csv(folder / f"{name}-{split}.csv", reviews(name, split, n)) for split, n in (("train", train), ("test", test))
    }
    return Task(**({"validation_share": 0.25} | files | changes))


def tiny_recipe(folder: Path, pretrain: dict[str, Any] | None = None, **finetune: Any) -> Recipe:
    """A recipe on a tiny task that runs in a second or two: two epochs, optionally after some steps of further pre-training."""
    stages: list[Pretrain | Finetune] = []
    if pretrain is not None:
        stages.append(Pretrain(**({"schedule_steps": 8, "steps": 4, "batch_size": 8, "max_length": 24} | pretrain)))
    settings = {"epochs": 2, "batch_size": 8, "max_length": 24, "head_tokens": 6, "learning_rate": 1e-3} | finetune
    stages.append(Finetune(**settings))
    return Recipe(
        tasks={"reviews": tiny_task(folder)}, task="reviews", encoder=tiny_encoder(), stages=tuple(stages), precision="float32"
    )


def multitask_recipe(folder: Path, multitask: dict[str, Any] | None = None, **finetune: Any) -> Recipe:
    """A recipe on two tasks of unequal size at once and then on `reviews`, in a second or two."""
    settings = {"epochs": 2, "batch_size": 8, "max_length": 24, "head_tokens": 6, "learning_rate": 1e-3}
    return Recipe(
        tasks={"reviews": tiny_task(folder), "places": tiny_task(folder, "sls_yelp", train=32)},
        task="reviews",
        encoder=tiny_encoder(),
        stages=(Multitask(**settings | (multitask or {})), Finetune(**settings | finetune)),
        precision="float32",
    )


def three_classes(folder: Path) -> Task:
    """Texts with their length modulo three as label."""
    files = {
        split: write_csv(
            folder / f"thirds-{split}.csv", [(text, str(len(text) % 3)) for text, _ in reviews("sls_amazon", split, 40)]
        )
        for split in ("train", "test")
    }
    return Task(**files, validation_share=0.25)


def marks_recipe(
    folder: Path, marks: dict[str, Any] | None = None, pretrain: dict[str, Any] | None = None, **finetune: Any
) -> Recipe:
    """A recipe with selective masking on a tiny task, in a few seconds."""
    shared = {"batch_size": 8, "max_length": 24, "learning_rate": 1e-3}
    learnt = {"epochs": 3, "scorer_epochs": 2, "scorer_learning_rate": 1e-3, "held_out_share": 0.25}
    masked = {"schedule_steps": 6, "steps": 6, "masking": "selective"}
    return Recipe(
        tasks={"reviews": tiny_task(folder)},
        task="reviews",
        encoder=tiny_encoder(),
        stages=(
            Marks(**shared | learnt | (marks or {})),
            Pretrain(**shared | masked | (pretrain or {})),
            Finetune(**shared | {"epochs": 2, "head_tokens": 6} | finetune),
        ),
        precision="float32",
    )


def pair_task(folder: Path, train: int = 60, test: int = 24, **changes: Any) -> Task:
    """Pairs of reviews as a user's own csv files: question and answer, some of them empty, and the label of the first."""
    files = {}
    for split, count in (("train", train), ("test", test)):
        rows = reviews("sls_imdb", split, count)
        others = [text for text, _ in reviews("sls_yelp", split, count)]
        files[split] = str(folder / f"pairs-{split}.csv")
        with open(files[split], "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(("question", "answer", "label"))
            for i, ((text, label), other) in enumerate(zip(rows, others, strict=True)):
                csv.writer(file).writerow((text, other if i % 7 else "", label))
    return Task(**({"text": "question", "text_pair": "answer", "validation_share": 0.25} | files | changes))


def pair_recipe(folder: Path, **finetune: Any) -> Recipe:
    """A recipe on pairs of texts, most of them cut, in a second or two."""
    recipe = tiny_recipe(folder, **finetune)
    return recipe.model_copy(update={"tasks": {"reviews": pair_task(folder)}})


def read_all(artifact: Artifact) -> None:
    """Read every file of an artifact, which checks size and digest. Raises DamagedArtifact."""
    for name in artifact.files:
        artifact.path(name)
