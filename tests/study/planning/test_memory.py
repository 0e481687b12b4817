"""The predicted texts of a forward pass: those that the loop's own limit takes; and what is said where not even one fits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from study.ablations.gpu_costs import ENCODERS
from study.cluster import gpus
from study.definition.models import Study
from study.planning import memory
from study.planning.gpu_table import GPUS, gpu_named
from study.planning.memory import PADDED, Need, Place, fit, fits, need_of, place_of
from study.survey import doctor
from study.survey.doctor import Finding
from study.survey.encoders import TABLE
from tests.study.planning.test_plan import ROOT, tiny
from tests.study.tiny import inside, refused, write_study
from tests.trainables.encoders import examples_of
from tests.trainables.families import base, encoder
from trainables.heads.classifier import classifier
from trainables.heads.masked_lm import masked_lm
from trainables.settings.encoder import Encoder
from trainables.settings.errors import ConfigError
from trainables.settings.pretraining import Pretrain
from trainables.settings.stages import Finetune
from trainables.training import footprint
from trainables.training.memory import footprint as of_model
from trainables.training.micro_batches import Limit

BASE, LARGE = (Encoder(config=ENCODERS[f"google-bert/bert-{size}-uncased"]) for size in ("base", "large"))
H100, A10 = gpu_named("h100"), gpu_named("A10")
GB = 1e9
TEXT = 4 * 13 * (10 * 768 + 2 * 3072) * 512
"""Bytes of a text of 512 pieces in BERT-base, by the formula of the loop."""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert", "deberta-v2", "xlnet"])
def test_a_plan_counts_as_the_loop_does(kind: str, device: str) -> None:
    """From the configuration alone, what the loop reads from the loaded model."""
    loaded, on_gpu = base(kind), device == "cuda"
    model = classifier(loaded, 2, "bilstm", 0.1, 0, lstm={"width": 8, "attention_width": 4, "hops": 2, "penalty": 0.0})
    for recomputes in (False, True):
        found = of_model(model, loaded.packable, torch.device(device), recomputes)
        stage = Finetune(pooling="bilstm", lstm_width=8, max_length=24, head_tokens=6)
        assert need_of(stage, encoder(kind), on_gpu, recomputes).text_bytes == found.bytes_of((24,))
    if TABLE[kind].masked:
        found = of_model(masked_lm(loaded, 0.1, 0), loaded.packable, torch.device(device))
        assert need_of(Pretrain(max_length=24), encoder(kind), on_gpu).text_bytes == found.bytes_of((24,), targets=4)


def test_families_that_are_not_packed_are_known() -> None:
    assert set(PADDED) == {kind for kind, family in TABLE.items() if family.padded}


def test_the_loop_takes_as_many_texts_as_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, device = base("bert"), torch.device("cpu")
    stage = Finetune(max_length=24, head_tokens=6, batch_size=8)
    need = need_of(stage, encoder("bert"), on_gpu=False)
    for texts in (1, 3, 8):
        monkeypatch.setattr(footprint, "CPU_BYTES", need.text_bytes * texts + 1)
        predicted = fit(need, Place("here", 64 * GB, on_gpu=False)).texts
        found = of_model(classifier(loaded, 2, "cls", 0.1, 0), loaded.packable, device)
        room = footprint.room_on_cpu(64 * GB, 0)
        limit = Limit(found, 0, room, room)
        first, *_ = limit.split([replace(text, masked=None) for text in examples_of(loaded, (24,) * 8)])
        assert predicted == len(first) == texts


@pytest.mark.parametrize(
    ("gpu", "share", "micro_batch", "expected"),
    [
        (H100, 1.0, 0, 24),  # .8 of 77.7 GB, as a power of two 34.4 GB, would hold 93
        (H100, 0.25, 0, 23),  # .8 of 17.7 GB, as a power of two 8.59
        (A10, 1.0, 0, 24),
        (A10, 0.25, 0, 5),  # .8 of 3.71 GB, as a power of two 2.15
        (A10, 0.25, 4, 4),
        (A10, 0.25, 16, 10),  # more do not fit: the loop halves it
        (A10, 0.0625, 0, 0),  # 0.96 GB
    ],
)
def test_texts_of_a_pass_on_a_gpu_by_hand(gpu: Any, share: float, micro_batch: int, expected: int) -> None:
    """BERT-base has 109,482,240 weights with its pooler."""
    need = need_of(Finetune(), BASE, on_gpu=True)
    assert need == Need("finetune", 512, 24, 16 * 109_482_240, TEXT)
    place = Place("a GPU", share * gpu.memory_bytes - 2**29, on_gpu=True)
    assert fit(need, place, micro_batch).texts == expected


def test_what_is_not_trained_has_no_moments() -> None:
    whole, adapters = (need_of(Finetune(lora_rank=rank), LARGE, on_gpu=True) for rank in (0, 8))
    assert (whole.fixed_bytes, adapters.fixed_bytes) == (16 * 335_141_888, 4 * 335_141_888)
    frozen = need_of(Finetune(freeze="encoder", pooling="mean"), BASE, on_gpu=True)
    assert (frozen.fixed_bytes, frozen.text_bytes) == (4 * 109_482_240, 4 * 768)
    low = need_of(Finetune(layers=(2,)), BASE, on_gpu=True)
    assert low.text_bytes * 13 == TEXT * 4
    assert need_of(Finetune(batch_size=24), BASE, True, workers=5).batch == 5


def study_of(folder: Path, encoder: Encoder = BASE, space: dict[str, Any] | None = None, **resources: Any) -> Study:
    made = tiny(folder, {"finetune.max_length": {"choice": [24, 96]}} if space is None else space, resources=resources)
    return made.model_copy(update={"encoder": encoder})


def test_the_settings_that_need_most_count(tmp_path: Path) -> None:
    place = place_of(study_of(tmp_path), H100)
    assert place is not None
    space = {"finetune.max_length": {"int": [24, 96]}, "finetune.batch_size": {"choice": [4, 16]}}
    (tuned,) = fits(study_of(tmp_path, space=space), place)
    assert (tuned.need.length, tuned.need.batch) == (96, 16)
    several = study_of(tmp_path, space={"pretrain.steps": {"choice": [0, 4]}})
    assert [each.need.stage for each in fits(several, place)] == ["pretrain", "finetune"]
    given = {"sampler": "given", "first": [{"finetune.max_length": 24}, {"finetune.max_length": 64}]}
    points = tiny(tmp_path, {}, search=given).model_copy(update={"encoder": BASE})
    assert [each.need.length for each in fits(points, place)] == [64]


def test_trials_side_by_side_have_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of(study_of(tmp_path, gpus=0.25), H100)
    assert place == Place("one H100", 20 * GB - 2**29, on_gpu=True, side_by_side=4)
    monkeypatch.setattr(gpus, "memory_bytes", lambda: 24 * 10**9)
    assert place_of(study_of(tmp_path, gpus=0.5)) == Place("this machine's GPU", 12 * GB - 2**29, on_gpu=True, side_by_side=2)
    monkeypatch.setattr(gpus, "memory_bytes", lambda: 0)
    assert place_of(study_of(tmp_path, gpus=1)) is None
    here = place_of(study_of(tmp_path))
    assert here is not None
    assert not here.on_gpu


def test_a_text_that_does_not_fit_is_told_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BERT-large with its moments takes 5.36 GB; four trials on a GPU of 24 GB have 5.46 each, eight have less than the weights."""
    monkeypatch.setattr(gpus, "memory_bytes", lambda: 24 * 10**9)
    study = study_of(tmp_path, LARGE, gpus=0.25)
    (finding,) = doctor._training_memory(study)
    assert finding.sign == doctor.WARN
    assert "finetune: not even one text of 96 pieces fits: 177 MB and 5.36 GB of weights and optimizer" in finding.text
    assert "in 5.46 GB of this machine's GPU" in finding.text
    for what in ("gradient_checkpointing", "max_length", "resources.gpus", "smaller encoder"):
        assert what in finding.advice
    (notice,) = memory.notices(study)
    assert notice == f"{finding.text.removeprefix('by an estimate, ')}; {finding.advice}"
    assert not list(memory.notices(study_of(tmp_path, LARGE)))
    (fine,) = doctor._training_memory(study_of(tmp_path, LARGE, gpus=0.5))
    assert (fine.sign, fine.advice) == (doctor.OK, "")
    assert "finetune: all 8 texts of 96 pieces in a forward pass" in fine.text


def keys_of(table: str) -> set[str]:
    """The keys in a table of docs/plans.md, by its heading."""
    section = (ROOT / "docs" / "plans.md").read_text(encoding="utf-8").split(f"### {table}\n")[1].split("\n#")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {key.strip(" `") for row in rows for key in row.split(",")}


def test_plans_as_json_have_the_documented_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_study(tmp_path, resources={"gpus": 0.5})
    code, out, _ = inside(capsys, "plan", path, "--store", tmp_path / "store", "--gpu", "l4", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["gpu"], found["memory"]["name"], found["memory"]["side_by_side"]) == ("L4", "one L4", 2)
    assert [(each["stage"], each["texts_per_pass"]) for each in found["memory"]["stages"]] == [("pretrain", 8), ("finetune", 8)]
    assert "30 float32 TFLOP/s (NVIDIA L4 data sheet)" in found["rate_from"]
    assert set(found) == keys_of("Plan of a study")
    assert set(found["memory"]) == keys_of("`memory`")
    assert set(found["memory"]["stages"][0]) == keys_of("`memory.stages`")
    shown = inside(capsys, "plan", path, "--store", tmp_path / "store", "--gpu", "l4")[1]
    assert "of one L4 at" in shown
    assert "11.5 GB of one L4 for a process, 2 processes side by side" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    assert "did you mean 'H100'" in refused(capsys, "plan", path, "--gpu", "H10")


def test_findings_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the exit code of the worst. What is found is the subject of other tests, which start Ray."""
    found = [Finding(doctor.OK, "CPUs", "2"), Finding(doctor.FAIL, "study", "no data", "bring some", of_study=True)]
    monkeypatch.setattr(doctor, "examine", lambda store, study: iter(found))
    code, out, _ = inside(capsys, "doctor", "--json")
    data = json.loads(out)
    assert code == data["exit_code"] == 2
    assert data["findings"][1] == {"sign": "fail", "what": "study", "text": "no data", "advice": "bring some"}
    assert set(data) == keys_of("Doctor")


def test_the_plan_of_ablations_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--scale", "paper", "--tasks", "imdb", "--store", tmp_path / "store", "--json")
    found = json.loads(inside(capsys, "plan", "table2", "table1", *given, "--gpu", "H100")[1])
    assert set(found) == keys_of("Plan of ablations")
    assert (found["statistics"], found["cells"], found["tokens_missing"]) == (["table1-paper"], 30, None)
    assert found["seconds"] == pytest.approx(found["flops"] / (989e12 * 0.4))
    assert found["memory"]["stages"] == [
        {"stage": "finetune", "length": 512, "batch": 24, "fixed_bytes": 16 * 109_482_240, "text_bytes": TEXT, "texts_per_pass": 24}
    ]


def test_a_precision_that_a_gpu_lacks_is_refused() -> None:
    """Before Ampere tensor cores had float16 alone, which is what `auto` is there."""
    assert {name: gpu.auto for name, gpu in GPUS.items() if gpu.auto != "bfloat16"} == {"T4": "float16", "V100": "float16"}
    with pytest.raises(ConfigError, match="precision: bfloat16 given, but T4 computes in float16, float32"):
        gpu_named("t4").rate("bfloat16")
    assert gpu_named("T4").speed_text("float16") == "40% (assumed) of 65 float16 TFLOP/s (NVIDIA T4 data sheet)"


def test_advice_names_what_the_place_allows() -> None:
    assert memory.advice(Place("one H100", 1, on_gpu=True)).count("resources.gpus") == 0
