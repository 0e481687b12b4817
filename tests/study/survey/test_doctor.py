"""The doctor: every line says what was found, and what to do where something is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer

from study.cluster import gpus
from study.definition.study_file import load_study
from study.survey import doctor
from study.survey.doctor import FAIL, OK, WARN, Finding
from tests.helpers import TINY_BERT, write_csv
from tests.study.tiny import inside, refused, study, write_study
from tests.trainables.cpu_kernels import registered
from tests.trainables.families import checkpoint
from trainables.kernels.choice import survey
from trainables.store.store import Store

EVERYTHING = [
    "Python",
    "CPUs",
    "threads",
    "torch",
    "GPU",
    "bfloat16",
    "memory",
    "temporary files",
    "run folders",
    "store",
    "Ray",
    "hub",
    "encoder",
]


def test_it_looks_at_everything_and_changes_nothing(tmp_path: Path) -> None:
    path = write_study(tmp_path / "input")
    done = study("doctor", path, "--store", tmp_path / "store", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    lines = done.stdout.splitlines()
    found = [line[6:].split(":")[0] for line in lines if not line.startswith(" ")]
    assert [name for name in EVERYTHING if name not in found] == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert any("starts and stops in" in line for line in lines)
    assert any("from scratch: nothing to fetch" in line for line in lines)
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "hub").exists()


def test_kernels_of_attention_on_a_gpu_are_told() -> None:
    """As a process on a GPU prints them; here there is none, which is an answer too."""
    with registered("drops nothing"):
        printed = json.loads(json.dumps({"float32": survey(torch.device("cpu"), torch.float32)}))
    used, refused = doctor._attention(printed, "")
    assert (used.sign, used.what) == (OK, "attention")
    assert "in float32 on the first GPU, tested for heads of 64: full: efficient, with dropout: plain" in used.text
    assert refused.sign == WARN
    assert "efficient kernel failed its test (float32, heads of 64, dropout): it drops 0.0%" in refused.text
    if not torch.cuda.is_available():
        (unknown,) = doctor._attention(*gpus.attention_kernels())
        assert unknown.sign == WARN
        assert "its kernels cannot be tested: torch cannot be run: " in unknown.text


@pytest.mark.parametrize("place", ["a folder that cannot be made", "a file in the way", "below a file", "no bucket", "no protocol"])
def test_a_store_that_cannot_be_written_fails_with_a_way_out(place: str, tmp_path: Path, bucket: str) -> None:
    (tmp_path / "file").touch()
    stores = {
        "a file in the way": tmp_path / "file",
        "below a file": tmp_path / "file" / "store",
        "no bucket": f"{bucket}-gone/store",
    }
    stores |= {"a folder that cannot be made": "/proc/no/such/place", "no protocol": "s33://bucket/store"}
    (finding,) = doctor._store(str(stores[place]))
    assert (finding.sign, finding.what) == (FAIL, "store")
    assert str(stores[place]) in finding.text
    assert {"no protocol": "did you mean 's3'"}.get(place, "--store") in finding.text + finding.advice


def test_a_store_that_can_be_written_is_left_as_it_was(tmp_path: Path, bucket: str) -> None:
    for url in (f"{bucket}/store", str(tmp_path)):
        (finding,) = doctor._store(url)
        assert finding.sign == OK, finding
        assert url in finding.text
        assert Store(url).files.names("") == []


def findings(folder: Path, **changes: Any) -> list[Finding]:
    """What is said of the tiny study with these changes, on a machine in order."""
    return list(doctor._study(load_study(write_study(folder / "input", **changes))))


def test_an_encoder_that_is_not_there_fails(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    found = findings(tmp_path, encoder={"folder": str(tmp_path / "encoder")})
    assert {finding.sign for finding in found} == {FAIL}
    assert "encoder" in found[0].text


def test_weights_that_do_not_fit_fail_and_what_is_odd_warns(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "encoder"))
    films = write_csv(tmp_path / "films.csv", [(f"кино и немцы {i}", str(i % 2)) for i in range(40)])
    tasks = {"reviews": {"train": films, "test": write_csv(tmp_path / "more.csv", [("кино", "0"), ("немцы", "1")])}}
    fine, study_fine, *odd = findings(tmp_path, encoder={"folder": str(folder)}, tasks=tasks)
    assert (fine.sign, study_fine.sign, {finding.sign for finding in odd}) == (OK, OK, {WARN})
    assert any("are unknown to the tokenizer" in finding.text for finding in odd)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 4}))
    (finding,) = findings(tmp_path, encoder={"folder": str(folder)})
    assert finding.sign == FAIL
    assert "config.json asks for 4 layers, but the file has weights for 3" in finding.text
    found = findings(tmp_path, encoder={"config": {"model_type": "gpt2"}})
    assert {finding.sign for finding in found} == {FAIL}


def test_a_mask_token_is_asked_for_where_the_study_masks(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(checkpoint("bert"), folder)
    pieces = {piece: i for i, piece in enumerate(AutoTokenizer.from_pretrained(folder).get_vocab())}
    tokenizer = BertTokenizer(vocab=pieces)
    tokenizer.mask_token = None
    tokenizer.save_pretrained(folder)
    encoder = {"folder": str(folder)}
    assert any("no mask token" in finding.text for finding in findings(tmp_path, encoder=encoder) if finding.sign == FAIL)
    recipe = [{"finetune": {"max_length": 24, "head_tokens": 6}}]
    plain = {
        "recipe": recipe,
        "space": {},
        "search": {"sampler": "random"},
        "final": {"top_k": 1, "seeds": 1},
        "budget": {"trials": 1},
    }
    found = findings(tmp_path, encoder=encoder, **plain)
    assert not any("mask token" in finding.text for finding in found)
    assert FAIL not in {finding.sign for finding in found}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resources": {"cpus": 4096}}, "4096 requested for a trial"),
        ({"encoder": {"folder": "/nowhere"}}, "/nowhere"),
        ({"tasks": {"reviews": {"train": "/nowhere/train.csv"}}}, "/nowhere/train.csv"),
        ({"encoder": {"config": TINY_BERT | {"hidden_size": 31}, "vocabulary": 400}}, "hidden"),
        ({"budgett": {}}, "did you mean 'budget'?"),
    ],
)
def test_what_a_run_is_refused_for_ends_with_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    for name in ("_ray", "_hub", "_torch"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    path = write_study(tmp_path, **changes)
    code, out, err = inside(capsys, "doctor", path, "--store", tmp_path / "store")
    assert code == 2, out + err
    assert said in out + err
    assert said in refused(capsys, "run", path, "--out", tmp_path / "run", "--store", tmp_path / "store")


def test_what_the_machine_lacks_has_another_exit_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_hub", "_torch"):
        monkeypatch.setattr(doctor, name, lambda: iter(()))
    monkeypatch.setattr(doctor, "_ray", lambda: iter([Finding(FAIL, "Ray", "does not start")]))
    assert inside(capsys, "doctor")[0] == 1


def test_a_hub_out_of_reach_is_a_warning_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "HUB", "127.0.0.1")  # nothing listens on port 443 here
    (finding,) = doctor._hub()
    assert finding.sign == WARN
    assert "HF_HUB_OFFLINE=1" in finding.advice


@pytest.mark.parametrize(
    ("name", "value", "sign"),
    [
        ("OMP_NUM_THREADS", "1", OK),
        ("OMP_NUM_THREADS", "", OK),
        ("OMP_NUM_THREADS", "1,2", OK),
        ("OMP_NUM_THREADS", " 1 , 8", OK),
        ("OMP_NUM_THREADS", "4096", WARN),
        ("OMP_NUM_THREADS", "4096,1", WARN),
        ("OMP_NUM_THREADS", "many", WARN),
        ("OMP_NUM_THREADS", "0", WARN),
        ("OMP_NUM_THREADS", "-1", WARN),
        ("OMP_NUM_THREADS", "1.5", WARN),
        ("OMP_NUM_THREADS", "²", WARN),
        ("MKL_NUM_THREADS", "4096", WARN),
        ("OPENBLAS_NUM_THREADS", "all", WARN),
    ],
)
def test_numbers_of_threads(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sign: str) -> None:
    for each in doctor.THREADS:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, value)
    *_, found = doctor._processors()
    assert (found.what, found.sign) == ("threads", sign)
    assert value.strip() in found.text


def test_variables_that_a_study_does_not_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RAY_ADDRESS": "10.0.0.1:6379", "TUNE_ODD": "1", "RAY_AIR_NEW_OUTPUT": "1"}.items():
        monkeypatch.setenv(name, value)
    said = [f"{finding.sign} {finding.text}" for finding in doctor._variables()]
    assert said[0].startswith("warn RAY_ADDRESS=10.0.0.1:6379 is not used")
    assert "TUNE_ODD" in said[1]
    assert "RAY_ADDRESS" not in said[1]
    assert said[2] == "warn a study overrides these: RAY_AIR_NEW_OUTPUT"


@pytest.mark.parametrize(("broken", "name"), [("this_machine", "processors"), ("_folder", "folders")])
def test_a_check_that_breaks_is_a_finding(broken: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("as many as there are")

    monkeypatch.setattr(doctor, broken, fails)
    findings: list[Finding] = []
    for finding in doctor.examine():
        findings.append(finding)
        if finding.sign == FAIL:
            break
    assert findings[-1].what == name
    assert "many" in findings[-1].text
