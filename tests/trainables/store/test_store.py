"""The store: one contract on every kind of file system, then what only real processes and real disks show."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.helpers import read_all
from trainables.store import garbage, local_files
from trainables.store.store import DamagedArtifact, Store, StoreError, stage_id

WEIGHTS = "model.safetensors"
FILES = {WEIGHTS: bytes(range(256)) * 40, "predictions.parquet": b"PAR1" * 50, "notes.json": b"{}"}
NAMES = {name: stage_id("test", {"name": name}) for name in ("whole", "dead", "going", "claimed", "elsewhere", "replaced")}
"""Of stages as a store gives them."""
PROCESSES = multiprocessing.get_context("spawn")
KINDS = ("path", "file", "memory", "folders", "s3")


def new_process() -> None:
    """Forget what this process has verified, as a new one would."""
    local_files._sha256.cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, for the caches of remote stores."""
    monkeypatch.delenv("FINETUNE_STUDY_STORE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, home: Path) -> Iterator[Store]:
    """A local path, a file URL, an object store in memory, a remote file system that has folders, and S3."""
    place = tmp_path / "a störe with späces"
    urls = {"path": str(place), "file": f"file://{place}", "memory": f"memory://{uuid4().hex}", "folders": f"dir::file://{place}"}
    urls |= {"s3": f"{request.getfixturevalue('bucket')}/{place.name}"} if request.param == "s3" else {}
    yield Store(urls[request.param], notice=notices.append)
    notices.clear()


notices: list[str] = []


def content(store: Store, name: str) -> dict[str, bytes] | None:
    """What a reader gets of an artifact."""
    artifact = store.get(name)
    return None if artifact is None else {file: artifact.path(file).read_bytes() for file in artifact.files}


def on_disk(store: Store, path: str) -> list[str]:
    return store.files.names(path)


# --- identity -------------------------------------------------------------------------------------------------------------------


def test_stage_id_is_stable() -> None:
    determines = {"rate": 2e-5, "texts": ["a", "é"], "parent": None, "seed": 0, "whole_word": False}
    assert stage_id("finetune", determines) == "29a5addc345ed10d3f07b5ad8ecd80d8"  # of the JSON text itself, by sha256sum
    assert stage_id("finetune", dict(reversed(determines.items()))) == stage_id("finetune", determines)
    assert stage_id("finetune", determines | {"texts": ("a", "é")}) == stage_id("finetune", determines)


def test_stage_id_changes_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    determines = {"rate": 2e-5, "texts": ["a"], "parent": None, "seed": 0, "deep": {"x": 1}}
    changes: list[dict[str, Any]] = [
        {"rate": math.nextafter(2e-5, 1)},
        {"texts": ["a", "a"]},
        {"texts": "a"},
        {"parent": "0"},
        {"seed": 1},
        {"seed": "0"},
        {"deep": {"x": 2}},
        {"deep": {"y": 1}},
        {"more": None},
    ]
    ids = [stage_id("finetune", determines), stage_id("pretrain", determines)]
    ids += [stage_id("finetune", determines | change) for change in changes]
    monkeypatch.setattr("trainables.store.artifact_files.FORMAT_VERSION", 99)
    ids.append(stage_id("finetune", determines))
    assert len(set(ids)) == len(ids)


def test_stage_id_refuses_what_has_no_one_form() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        stage_id("finetune", {"rate": float("nan")})
    with pytest.raises(TypeError, match="keys must be strings"):
        stage_id("finetune", {"deep": {1: "a"}})
    with pytest.raises(TypeError, match="not JSON serializable"):
        stage_id("finetune", {"path": Path("x")})


# --- artifacts, on every kind of file system -------------------------------------------------------------------------------------


def test_publish_and_get(store: Store, tmp_path: Path) -> None:
    assert store.get("stage") is None
    (tmp_path / "weights").write_bytes(FILES[WEIGHTS])
    manifest = {"kind": "other", "rows": [{"loss": 0.25, "tuple": [1, 2]}], "text": "ü"}
    published = store.publish("stage", manifest, FILES | {WEIGHTS: tmp_path / "weights"})
    assert (tmp_path / "weights").exists()
    assert published.manifest == manifest
    new_process()
    artifact = store.get("stage")
    assert artifact is not None
    assert artifact == published
    assert content(store, "stage") == FILES
    assert artifact.has(WEIGHTS)
    read_all(artifact)
    with pytest.raises(FileNotFoundError, match="not among its files: model"):
        artifact.path("other.json")
    assert store.get("stage", needs=("other.json",)) is None


def test_publish_takes_files_over(store: Store, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(FILES[WEIGHTS])
    store.publish("stage", {}, {WEIGHTS: tmp_path / "weights"}, move=True)
    assert not (tmp_path / "weights").exists()
    assert content(store, "stage") == {WEIGHTS: FILES[WEIGHTS]}


def test_publish_is_idempotent(store: Store) -> None:
    first = store.publish("stage", {"rows": [1]}, FILES)
    again = store.publish("stage", {"rows": [2]}, FILES)
    assert again.attempt == first.attempt
    assert again.manifest == {"rows": [1]}
    assert len(on_disk(store, "artifacts/stage")) == 2  # the attempt and its marker


def test_pruned_files_are_gone_and_can_come_back(store: Store) -> None:
    artifact = store.publish("stage", {"rows": [1]}, FILES)
    store.drop_files("stage", [WEIGHTS, "never-there.json"])
    store.drop_files("stage", [WEIGHTS])
    pruned = store.get("stage")
    assert pruned is not None
    assert not pruned.has(WEIGHTS)
    assert pruned.manifest == {"rows": [1]}
    assert WEIGHTS not in on_disk(store, artifact.folder)
    for reader in (pruned, artifact):
        with pytest.raises(FileNotFoundError, match="pruned"):
            reader.path(WEIGHTS)
    assert store.get("stage", needs=(WEIGHTS,)) is None
    with store.claim("stage", needs=(WEIGHTS,)) as claim:
        assert claim is not None
        store.publish("stage", {"rows": [1]}, FILES)
    assert content(store, "stage") == FILES
    store.drop_files("unknown", [WEIGHTS])
    assert not notices


def test_half_written_is_invisible(store: Store) -> None:
    marker = store.files.read(f"{store.publish('other', {}, FILES).folder.rsplit('/', 1)[0]}/COMPLETE.json")
    store.files.put("artifacts/stage/abc/model.safetensors", b"half")
    assert store.get("stage") is None
    store.files.write("artifacts/stage/COMPLETE.json", marker[: len(marker) // 2])
    assert store.get("stage") is None
    assert content(store, "other") == FILES


def test_names_are_checked(store: Store) -> None:
    for wrong in ("", "..", "a/b", "../a", "a..b", ".hidden", "a" * 200, "a\n", "ä"):
        with pytest.raises(ValueError, match="is no name"):
            store.get(wrong)
        with pytest.raises(ValueError, match="is no name"):
            store.publish("stage", {}, {wrong: b""})
    for wrong in ("weights.pkl", "pytorch_model.bin", "weights", "model.pt"):
        with pytest.raises(ValueError, match="a store holds"):
            store.publish("stage", {}, {wrong: b""})
    with pytest.raises(ValueError, match="own name"):
        store.save_state("stage", 1, {}, {"STATE.json": b""})
    with pytest.raises(TypeError):
        store.publish("stage", {"path": Path("x")}, {})
    assert on_disk(store, "artifacts") == []


def damage(store: Store, folder: str, chance: random.Random) -> str:
    """Damage one file of an artifact, its marker among them, as disks and people do."""
    names = [
        f"{top}/{name}" for top in store.files.names(folder) for name in store.files.names(f"{folder}/{top}") if "." not in top
    ]
    path = f"{folder}/{chance.choice(['COMPLETE.json', *names])}"
    data = bytearray(store.files.read(path))
    where = chance.randrange(len(data))
    match kind := chance.choice(["delete", "cut", "flip", "append", "empty", "invert"]):
        case "delete":
            store.files.remove(path)
            return f"{kind} {path}"
        case "cut":
            del data[where:]
        case "flip":
            data[where] ^= 1 << chance.randrange(8)
        case "append":
            data += b"\0"
        case "empty":
            data.clear()
        case "invert":
            data[where:] = bytes(255 - byte for byte in data[where:])
    store.files.write(path, bytes(data))
    return f"{kind} {path}"


@pytest.mark.parametrize(
    ("store", "seed"), [(kind, seed) for kind in KINDS for seed in range(5 if kind == "s3" else 30)], indirect=["store"]
)
def test_damaged_is_never_served(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    store.publish("stage", {"rows": [{"loss": 0.125}]}, FILES)
    where = damage(store, "artifacts/stage", chance)
    new_process()
    shutil.rmtree(store.local_cache("fetched"))
    artifact = store.get("stage")
    local = isinstance(store.files, local_files.LocalFiles)
    assert artifact is None or not local, where
    refused = artifact is None
    for name in artifact.files if artifact else ():  # remote: content is checked as it is fetched
        try:
            assert artifact is not None
            assert artifact.path(name).read_bytes() == FILES[name], where
        except DamagedArtifact:
            refused = True
    assert refused, where
    repaired = store.publish("stage", {"rows": [{"loss": 0.125}]}, FILES)
    read_all(repaired)
    assert content(store, "stage") == FILES


def test_damage_is_told_and_set_aside(store: Store) -> None:
    artifact = store.publish("stage", {}, FILES)
    store.files.write(f"{artifact.folder}/{WEIGHTS}", FILES[WEIGHTS][:-1] + b"x")
    new_process()
    with pytest.raises(DamagedArtifact, match="altered: its sha256 is"):
        artifact.path(WEIGHTS)
    assert store.get("stage") is None
    assert len(notices) == 1
    assert "artifact stage is damaged and counts as missing: model.safetensors was altered" in notices[0]
    assert "DAMAGED.json" in on_disk(store, artifact.folder)
    with store.claim("stage") as claim:
        assert claim is not None  # to be computed again


@pytest.mark.parametrize(
    ("place", "number", "told"),
    [("inside", errno.ENOSPC, True), ("inside", errno.EIO, True), ("", errno.ENOSPC, True), ("/data/texts.csv", errno.EIO, False)],
)
def test_what_cannot_be_written_on_the_way_is_told_with_a_way_out(store: Store, place: str, number: int, told: bool) -> None:
    """A driver names no file; what is read from elsewhere is no fault of the store."""
    with pytest.raises((StoreError, OSError)) as caught, store.writing() as folder:
        raise OSError(number, os.strerror(number), str(folder / WEIGHTS) if place == "inside" else place or None)
    assert isinstance(caught.value, StoreError) == told
    assert ("choose another store" in str(caught.value)) == told
    assert list(store.local_cache("writing").iterdir()) == []


# --- states ---------------------------------------------------------------------------------------------------------------------


def test_states_replace_each_other(store: Store) -> None:
    assert store.load_state("stage") is None
    for step in (5, 10, 200):
        store.save_state("stage", step, {"step": step, "rows": [0.5]}, {WEIGHTS: f"weights {step}".encode()})
        assert len(on_disk(store, "states/stage")) == 1
    store.save_state("stage", 10, {"step": 10}, {WEIGHTS: b"late and lower"})
    state = store.load_state("stage")
    assert state is not None
    assert (state.step, state.meta) == (200, {"step": 200, "rows": [0.5]})
    assert state.path(WEIGHTS).read_bytes() == b"weights 200"
    with pytest.raises(FileNotFoundError, match=r"no 'other\.json': "):
        state.path("other.json")
    store.drop_state("stage")
    store.drop_state("stage")
    assert store.load_state("stage") is None
    assert on_disk(store, "states") == []


def test_half_written_and_damaged_states_fall_back(store: Store) -> None:
    files, half = {WEIGHTS: b"weights"}, "000000000003-0123456789ab"
    for step in (2, 1):  # who starts anew to leave what is wanted below keeps what others have done
        store.save_state("stage", step, {}, files)
    lower, further = on_disk(store, "states/stage")
    store.files.put(f"states/stage/{half}/model.safetensors", b"no marker yet")
    first = store.load_state("stage")
    assert first is not None
    assert first.step == 2
    store.files.write(f"states/stage/{further}/{WEIGHTS}", b"weightz")
    new_process()
    shutil.rmtree(store.local_cache("fetched"))
    second = store.load_state("stage")
    assert second is not None
    assert second.step == 1
    assert "the state of stage stage at step 2 is damaged" in notices[-1]
    store.files.write(f"states/stage/{lower}/{WEIGHTS}", b"w")
    assert store.load_state("stage") is None
    store.save_state("stage", 1, {}, files)
    (kept,) = {*on_disk(store, "states/stage")} - {lower, half}
    assert half in on_disk(store, "states/stage")  # it is young: its owner may be at it
    assert lower in on_disk(store, "states/stage")
    assert kept.startswith("000000000001-")


def test_the_furthest_state_stays_while_another_goes_below_it(store: Store) -> None:
    for step in (100, 10, 20, 30):
        store.save_state("stage", step, {}, {WEIGHTS: f"weights {step}".encode()})
    assert [int(name[:12]) for name in on_disk(store, "states/stage")] == [30, 100]
    for at_most, step in ((None, 100), (100, 100), (99, 30), (30, 30)):
        state = store.load_state("stage", at_most)
        assert state is not None
        assert (state.step, state.path(WEIGHTS).read_bytes()) == (step, f"weights {step}".encode())
    assert store.load_state("stage", 29) is None
    store.save_state("stage", 110, {}, {WEIGHTS: b"past it"})
    assert [int(name[:12]) for name in on_disk(store, "states/stage")] == [110]


# --- garbage --------------------------------------------------------------------------------------------------------------------


def test_collect(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publish(NAMES["whole"], {}, FILES)
    store.save_state(NAMES["going"], 1, {}, {WEIGHTS: b"young"})
    for name in (NAMES["dead"], NAMES["going"], NAMES["claimed"]):
        store.files.put(f"artifacts/{name}/{uuid4().hex}/{WEIGHTS}", b"x" * 1000)
        store.save_state(name, 1, {}, {WEIGHTS: b"old"})
    (store.local_cache("writing") / "left-behind").mkdir()
    store.files.put(f"ray/{uuid4().hex}/t000/state.json", b"{}")
    (store.local_cache("tokens") / "kept").write_bytes(b"")
    foreign = {"host": "gone", "pid": 1, "system": "x", "started": 1, "token": "t", "ttl_s": 60, "expires_monotonic": 0}
    store.files.write(f"leases/{NAMES['dead']}/3.json", json.dumps(foreign | {"expires": time.time() - 7200}).encode())
    store.files.write(f"leases/{NAMES['elsewhere']}/1.json", json.dumps(foreign | {"expires": time.time() + 60}).encode())
    an_hour_ago = time.time() - 3600
    for path in [*tmp_path.rglob("*")]:
        if NAMES["going"] not in path.parts:
            os.utime(path, (an_hour_ago, an_hour_ago))
    with store.claim(NAMES["claimed"]):
        assert store.collect(older_than_s=7200).attempts == 0
        store.files.write(f"leases/{NAMES['dead']}/3.json", json.dumps(foreign | {"expires": time.time() - 7200}).encode())
        report = store.collect(older_than_s=1800)
    assert (report.attempts, report.states, report.leases, report.scratch) == (1, 1, 1, 2)
    assert report.bytes > 1000
    assert on_disk(store, "artifacts") == sorted(NAMES[name] for name in ("claimed", "going", "whole"))
    assert on_disk(store, "states") == sorted(NAMES[name] for name in ("claimed", "going"))
    assert on_disk(store, "leases") == [NAMES["elsewhere"]]
    assert on_disk(store, "ray") == []
    assert (store.local_cache("tokens") / "kept").exists()
    assert content(store, NAMES["whole"]) == FILES


FOREIGN = ("backup/a/b.json", f"{NAMES['whole']}/mine/b.json", f"{NAMES['whole']}/notes.json", f"{NAMES['dead']}/mine.json")
"""What no store writes below artifacts."""


def test_collect_leaves_alone_what_is_not_the_stores(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.publish(NAMES["whole"], {}, FILES)
    paths = [f"artifacts/{path}" for path in FOREIGN]
    paths += [
        f"states/{NAMES['dead']}/mine/a.json",
        "states/mine/000000000001-0123456789ab/a.json",
        "leases/mine/1.json",
        "ray/mine/a",
    ]
    for path in (*paths, "mine.json"):
        store.files.write(path, b"mine")
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    report = store.collect(0.0)
    assert (report.attempts, report.states, report.leases, report.scratch) == (0, 0, 0, 0)
    store.save_state(NAMES["dead"], 1, {}, {WEIGHTS: b"new"})
    for path in (*paths, "mine.json"):
        assert store.files.read(path) == b"mine"
    assert content(store, NAMES["whole"]) == FILES


def test_collect_on_every_kind(store: Store) -> None:
    whole, replaced = NAMES["whole"], NAMES["replaced"]
    store.publish(whole, {}, FILES)
    store.publish(replaced, {}, {"a.json": b"1"})
    store.publish(replaced, {}, {"a.json": b"1", "b.json": b"2"})
    assert len(on_disk(store, f"artifacts/{replaced}")) == 3
    assert store.collect(3600).attempts == 0
    time.sleep(0.05)
    assert store.collect(0.01).attempts == 1
    assert content(store, replaced) == {"a.json": b"1", "b.json": b"2"}
    assert content(store, whole) == FILES


# --- several threads and processes -----------------------------------------------------------------------------------------------


def test_threads_compute_a_stage_once(store: Store) -> None:
    done: list[str] = []

    def want(_: int) -> dict[str, bytes] | None:
        mine = Store(store.url)
        with mine.claim("stage", waiting=lambda line: None) as claim:
            if claim is not None:
                done.append("computed")
                time.sleep(0.2)
                mine.publish("stage", {}, FILES)
        return content(mine, "stage")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(want, range(8))) == [FILES] * 8
    assert done == ["computed"]
    assert on_disk(store, "leases") == []


def test_a_failed_owner_lets_go(store: Store) -> None:
    def fail() -> None:
        with store.claim("stage") as claim:
            assert claim is not None
            with Store(store.url).claim("stage", wait=False) as second:
                assert second is None
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with store.claim("stage", wait=False) as claim:
        assert claim is not None
    store.publish("stage", {}, FILES)
    with store.claim("stage") as claim:
        assert claim is None


def test_a_thread_does_not_wait_for_itself(store: Store) -> None:
    with store.claim("stage"), pytest.raises(RuntimeError, match="would wait for itself"), Store(store.url).claim("stage"):
        pass


def compute(url: str, log: str, seconds: float, ttl_s: float = 60.0) -> None:
    """Want one stage; note who computes it."""
    store = Store(url)
    with store.claim("stage", ttl_s=ttl_s) as claim:
        if claim is not None:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(seconds)
            store.publish("stage", {"by": os.getpid()}, FILES)
            for _ in range(20 if ttl_s < 1 else 0):
                time.sleep(0.05)
                if claim.lost:
                    os._exit(7)
    artifact = store.get("stage")
    assert artifact is not None
    read_all(artifact)


def start(count: int, *arguments: Any) -> list[Any]:
    processes = [PROCESSES.Process(target=compute, args=arguments, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[Any]) -> list[int | None]:
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def lines(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def test_four_processes_compute_a_stage_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert finish(start(4, str(tmp_path / "störe one"), str(log), 0.3)) == [0] * 4
    assert len(lines(log)) == 1
    assert on_disk(Store(tmp_path / "störe one"), "leases") == []


def test_another_takes_over_when_the_owner_is_killed(tmp_path: Path) -> None:
    log, url = tmp_path / "log", str(tmp_path / "store")
    (owner,) = start(1, url, str(log), 600.0)
    until(lambda: lines(log))
    others = start(3, url, str(log), 0.3)
    time.sleep(1.0)  # they wait by now
    os.kill(owner.pid, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: len(lines(log)) == 2)
    assert time.monotonic() - killed < 30  # the lease has not expired: it was seen that its owner is gone
    assert finish(others) == [0] * 3
    assert len(lines(log)) == 2
    assert on_disk(Store(url), "leases") == []


def test_a_stopped_owner_is_overtaken_and_does_no_harm(tmp_path: Path) -> None:
    log, url = tmp_path / "log", str(tmp_path / "store")
    (owner,) = start(1, url, str(log), 1.0, 0.5)
    until(lambda: lines(log))
    os.kill(owner.pid, signal.SIGSTOP)
    other = start(1, url, str(log), 2.5)
    until(lambda: len(lines(log)) == 2)
    os.kill(owner.pid, signal.SIGCONT)
    assert finish([owner]) == [7]  # it noticed
    assert content(Store(url), "stage") == FILES
    assert finish(other) == [0]
    artifact = Store(url).get("stage")
    assert artifact is not None
    assert artifact.manifest["by"] in (owner.pid, other[0].pid)  # who was first; the other's publication changed nothing
    assert len(on_disk(Store(url), "artifacts/stage")) == 2


def publish_much(url: str) -> None:
    for index in range(1000):
        Store(url).publish(f"stage{index}", {"index": index}, {WEIGHTS: bytes([index % 256]) * 2_000_000, "a.json": b"{}"})


@pytest.mark.parametrize("milliseconds", [5, 40, 90])
def test_sigkill_while_publishing_leaves_nothing_half(tmp_path: Path, milliseconds: int) -> None:
    store = Store(tmp_path / "store")
    process = PROCESSES.Process(target=publish_much, args=(store.url,), daemon=True)
    process.start()
    until(lambda: on_disk(store, "artifacts"))
    time.sleep(milliseconds / 1000)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    names = on_disk(store, "artifacts")
    assert names
    for name in names:
        artifact = store.get(name)
        if artifact is not None:
            read_all(artifact)
            assert artifact.manifest["index"] == int(name.removeprefix("stage"))
        elif (tmp_path / "store" / "artifacts" / name / "COMPLETE.json").exists():
            pytest.fail("a marker without its files")


def use(url: str, seed: int, ready: Any) -> None:
    """Do all that users of a store do, in any order; nothing may look damaged to anyone."""
    said: list[str] = []
    store, chance = Store(url, notice=said.append), random.Random(seed)
    ready.wait(60)
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        name = f"stage{chance.randrange(3)}"
        match chance.choice(["publish", "prune", "read", "claim", "state", "collect"]):
            case "publish":
                store.publish(name, {"rows": []}, FILES)
            case "prune":
                store.drop_files(name, [WEIGHTS])
            case "read" if (artifact := store.get(name)) is not None:
                for file in artifact.files:
                    with contextlib.suppress(FileNotFoundError):  # pruned or replaced meanwhile
                        artifact.path(file)
            case "claim":
                with store.claim(f"{name}-state", wait=False):
                    pass
            case "state":
                with store.claim(f"{name}-state", wait=False) as claim:
                    if claim is not None:
                        state = store.load_state(f"{name}-state")
                        store.save_state(f"{name}-state", (state.step if state else 0) + 1, {}, {WEIGHTS: bytes(seed * 100)})
            case "collect":
                store.collect(3600)
    assert said == []


@pytest.mark.parametrize("store", ["path", "folders", "s3"], indirect=True)
def test_a_busy_store_shows_no_damage(store: Store) -> None:
    url = store.url
    ready = PROCESSES.Barrier(3)
    processes = [PROCESSES.Process(target=use, args=(url, seed, ready), daemon=True) for seed in range(3)]
    for process in processes:
        process.start()
    assert finish(processes) == [0] * 3
    assert 0 < len(on_disk(store, "artifacts")) <= 3
    for name in on_disk(store, "artifacts"):
        read_all(store.publish(name, {"rows": []}, FILES))
    assert all(len(on_disk(store, f"states/{name}")) == 1 for name in on_disk(store, "states"))


def test_a_stage_finished_while_claiming_is_not_claimed(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Store(tmp_path)
    create = store.files.create

    def late(path: str, data: bytes) -> bool:
        other.publish("stage", {}, FILES)
        return create(path, data)

    store.files.create = late  # type: ignore[method-assign]
    with store.claim("stage") as claim:
        assert claim is None
    assert on_disk(store, "leases") == []


# --- disks that are full or may not be written ------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A folder that takes 512 KiB: a disk of its own where we may mount one, else files may not grow beyond that."""
    folder.mkdir()
    if (
        os.geteuid() == 0
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=False).returncode == 0
    ):
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512 * 1024, before[1]))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder that nobody writes to: permissions bind everyone but root, a read-only mount binds root too."""
    if os.geteuid() != 0:
        folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        try:
            for each in folders:
                each.chmod(0o555)
            yield folder
        finally:
            for each in folders:
                each.chmod(0o755)
        return
    for options in (["--bind"], ["-o", "remount,bind,ro"]):
        if subprocess.run(["mount", *options, folder, folder], check=False).returncode:
            pytest.skip("root without the right to mount cannot make a read-only folder")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as folder:
        store = Store(folder)
        store.check_writable()
        store.publish("small", {}, FILES)
        store.save_state("stage", 1, {}, {WEIGHTS: b"first"})
        for attempt in (
            lambda: store.publish("stage", {}, {WEIGHTS: bytes(1_000_000)}),
            lambda: store.save_state("stage", 2, {}, {WEIGHTS: bytes(1_000_000)}),
        ):
            with pytest.raises(
                StoreError, match=r"cannot write .*: (No space left on device|File too large); free some space"
            ) as caught:
                attempt()
            assert str(folder) in str(caught.value)
            assert "--store" in str(caught.value)
        assert store.get("stage") is None
        assert on_disk(store, "artifacts") == ["small"]
        state = store.load_state("stage")
        assert state is not None
        assert state.path(WEIGHTS).read_bytes() == b"first"
        store.publish("stage", {}, FILES)  # there is room again
        assert content(store, "stage") == FILES


def test_read_only_store_is_read_and_refuses_work(tmp_path: Path, home: Path) -> None:
    store = Store(tmp_path / "store")
    store.publish("there", {}, FILES)
    with read_only(tmp_path / "store"):
        assert content(store, "there") == FILES
        assert store.local_cache("tokens").is_relative_to(home)
        for attempt in (
            store.check_writable,
            lambda: store.claim("stage").__enter__(),
            lambda: store.publish("stage", {}, FILES),
            lambda: store.save_state("stage", 1, {}, FILES),
        ):
            with pytest.raises(StoreError, match=r"cannot write .*(Read-only file system|Permission denied); give yourself access"):
                attempt()
    assert on_disk(store, "artifacts") == ["there"]


def damaged_store(folder: Path) -> Store:
    """One whole artifact and state, and one of each kind of damage."""
    store = Store(folder, notice=notices.append)
    for name in ("whole", "cut", "marker"):
        store.publish(name, {}, FILES)
        store.save_state(name, 1, {}, {WEIGHTS: b"weights"})
        (state,) = on_disk(store, f"states/{name}")
        if name == "cut":
            (artifact,) = (it for it in on_disk(store, f"artifacts/{name}") if "." not in it)
            (folder / "artifacts" / name / artifact / WEIGHTS).write_bytes(FILES[WEIGHTS][:-1] + b"x")
            (folder / "states" / name / state / WEIGHTS).write_bytes(b"weightz")
        if name == "marker":
            (folder / "artifacts" / name / "COMPLETE.json").write_bytes(b"{")
            (folder / "states" / name / state / "STATE.json").write_bytes(b"{")
    new_process()
    return store


@pytest.mark.parametrize("why", ["read only", "full"])
def test_damage_is_found_where_nothing_can_be_written(tmp_path: Path, home: Path, why: str) -> None:
    with small_disk(tmp_path / "store") if why == "full" else contextlib.nullcontext():
        store = damaged_store(tmp_path / "store")
        with read_only(tmp_path / "store") if why == "read only" else contextlib.nullcontext():
            if why == "full":
                with contextlib.suppress(OSError), open(tmp_path / "store" / "filler", "wb") as file:
                    while file.write(bytes(4096)):
                        file.flush()
            assert content(store, "whole") == FILES
            garbage.used(store.files, "artifacts/whole")
            state = store.load_state("whole")
            assert state is not None
            assert state.path(WEIGHTS).read_bytes() == b"weights"
            for name in ("cut", "marker"):
                assert store.get(name) is None
                assert store.load_state(name) is None
            told = "\n".join(notices)
            assert "artifact cut is damaged" in told
            assert "artifact marker counts as missing" in told
            assert "the state of stage cut at step 1 is damaged" in told
    notices.clear()


def save_much(url: str, name: str, ready: Any) -> None:
    """Save state after state under a claim; each is there when it is loaded."""
    store = Store(url, notice=lambda line: os._exit(5))
    ready.wait(60)
    with store.claim(name) as claim:
        assert claim is not None
        for step in range(1, 150):
            store.save_state(name, step, {}, {WEIGHTS: bytes(step)})
            state = store.load_state(name)
            assert state is not None
            assert state.step == step
        store.drop_state(name)


def test_collecting_while_others_save(tmp_path: Path) -> None:
    ready, store = PROCESSES.Barrier(2), Store(tmp_path / "store")
    process = PROCESSES.Process(target=save_much, args=(store.url, NAMES["going"], ready), daemon=True)
    process.start()
    ready.wait(60)
    until(lambda: store.files.names("leases"))
    while process.is_alive():
        assert store.collect(0.0).states == 0
    assert finish([process]) == [0]


def test_default_store(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    assert Store.default(said.append).url == str(home / ".cache" / "finetune-study")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Store.default(said.append).url == str(tmp_path / "xdg" / "finetune-study")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert Store.default(said.append).url == str(home / ".cache" / "finetune-study")
    monkeypatch.setenv("FINETUNE_STUDY_STORE", "memory://mine")
    assert Store.default(said.append).url == "memory://mine"
    assert said == []


def test_default_store_without_a_writable_home(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    with read_only(home):
        store = Store.default(said.append)
        assert store.url == str(tmp_path / ".finetune-study")
        assert Store("memory://x").local_cache("tokens").is_relative_to(tmp_path / ".finetune-study")
    assert len(said) == 1
    assert "cannot be used, results are kept in" in said[0]
    monkeypatch.setenv("HOME", "/dev/null")
    assert Store.default(said.append).url == store.url


def test_addresses_that_cannot_be() -> None:
    with pytest.raises(StoreError, match=r"'s33://bucket'.*did you mean 's3'"):
        Store("s33://bucket")
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(StoreError, match="Install s3fs"):
            Store("s3://bucket/store")


def test_a_store_in_the_way_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        Store(tmp_path / "file" / "store").check_writable()
