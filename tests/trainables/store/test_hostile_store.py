"""A store that others may write to: whatever lies in it, nothing outside it is read, written or removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.helpers import read_all
from trainables.store import lease
from trainables.store.artifact_files import DEEPEST, artifact_marker, checked_files, marker_bytes, state_marker
from trainables.store.local_files import LARGEST
from trainables.store.manifest import KINDS, LOOP, fault_of
from trainables.store.store import DamagedArtifact, Store, StoreError, stage_id

STAGE, OTHER = stage_id("test", {}), stage_id("test", {"other": True})
ATTEMPT, STATE = "fedcba98" * 4, "000000000007-0123456789ab"
WEIGHTS = "model.safetensors"
CANARY = b"the user's own"
FACTS = {"size": len(CANARY), "sha256": hashlib.sha256(CANARY).hexdigest()}
"""Of a file of the user's: who can read it, or guess it, can make a marker that fits it."""
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], database=None
)


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


NOTHINGS: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1.5,
    2**63,
    10**400,
    math.nan,
    math.inf,
    "",
    "7",
    [],
    {},
    [[]],
    nested(DEEPEST + 1),
]
WAYS_OUT = [f"{'../' * up}canary/{WEIGHTS}" for up in range(1, 6)]
NAMES = [*WAYS_OUT, "..", ".", "", "/", "a/b.json", "a\\..\\b.json", ".hidden.json", "a..json", "a\0.json", "ä.json", "\ud800.json"]
NAMES += [
    "a" * 300 + ".json",
    "a\n.json",
    "weights.pkl",
    "COMPLETE.json",
    "state.JSON",
    "USED.json",
    "-rf.json",
    "~.json",
    "/dev/zero",
]


class Place:
    """A store, and files of the user's beside it that nobody may touch."""

    def __init__(self, kind: str, folder: Path, bucket: str = "") -> None:
        self.folder, self.bucket = folder / uuid4().hex, f"{bucket}/{uuid4().hex}"
        (self.folder / "canary").mkdir(parents=True)
        self.said: list[str] = []
        self.root = f"/{uuid4().hex}"
        urls = {
            "path": str(self.folder / "store"),
            "folders": f"dir::file://{self.folder}/store",
            "memory": f"memory:/{self.root}/store",
            "s3": f"{self.bucket}/store",
        }
        self.store = Store(urls[kind], notice=self.said.append)
        for name in (WEIGHTS, "COMPLETE.json", "STATE.json", "1.json"):
            (self.folder / "canary" / name).write_bytes(CANARY)
            fsspec.filesystem("memory").pipe_file(f"{self.root}/canary/{name}", CANARY)
            if bucket:
                fsspec.filesystem("s3").pipe_file(f"{self.bucket}/canary/{name}", CANARY)

    def outside(self) -> dict[str, Any]:
        """All that is beside the store, with its content."""
        there: dict[str, Any] = {}
        for protocol, root in (("memory", self.root), *([("s3", self.bucket)] if self.bucket.startswith("s3") else [])):
            fs = fsspec.filesystem(protocol, use_listings_cache=False)
            found = fs.find(root)
            there |= {path: fs.cat_file(path) for path in found if f"{root.removeprefix('s3:/')}/store/" not in f"/{path}"}
        for path in sorted(self.folder.rglob("*")):
            if not path.is_relative_to(self.folder / "store"):
                there[str(path)] = (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        return there

    def use(self) -> list[bytes]:
        """Do all that users do; what they read. Raises whatever is no answer."""
        store, read = self.store, []
        for digests in (True, False):
            if (artifact := store.get(STAGE, digests=digests)) is not None:
                with contextlib.suppress(DamagedArtifact, FileNotFoundError):
                    read_all(artifact)
                    read += [artifact.path(name).read_bytes() for name in artifact.files]
                with contextlib.suppress(DamagedArtifact):
                    assert all(isinstance(row["step"], int) for row in artifact.rows("finetune"))
        for at_most in (None, 100):
            if (state := store.load_state(STAGE, at_most)) is not None:
                read += [path.read_bytes() for path in state._paths.values()]
        with store.claim(STAGE, wait=False):
            pass
        store.drop_files(STAGE, [WEIGHTS, *(name for name in NAMES if "/" not in name)])
        store.collect(0.0)
        store.save_state(STAGE, 9, {}, {WEIGHTS: b"ours"})
        store.publish(STAGE, {}, {WEIGHTS: b"ours"})
        store.collect(0.0)
        store.drop_state(STAGE)
        return read


@pytest.fixture(params=["path", "memory", "folders"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Place]:
    """Makes a store on a local disk, in an object store, and on a remote file system that has folders; on S3 where asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no power cut in these tests
    bucket = request.getfixturevalue("bucket") if request.param == "s3" else ""
    return lambda: Place(request.param, tmp_path / "places", bucket)


def written(changes: Callable[[dict[str, Any]], Any], kind: str) -> bytes:
    """A marker with something changed, and the digest that fits it."""
    about: dict[str, Any] = {"stage_id": STAGE, "files": {WEIGHTS: dict(FACTS)}}
    about |= {"attempt": ATTEMPT, "pruned": [], "manifest": {}} if kind == "artifact" else {"step": 7, "meta": {}}
    changes(about)
    return marker_bytes(about)


@st.composite
def markers(draw: st.DrawFn, kind: str) -> bytes:
    """Markers of an attacker: whole by their digest, and wrong in one place, or no markers at all."""
    places = {"artifact": ["attempt", "pruned", "manifest"], "state": ["step", "meta"]}[kind] + [
        "stage_id",
        "files",
        "name",
        "size",
        "sha256",
    ]
    match draw(st.sampled_from([*places, "missing", "bytes"])):
        case "name":
            name = draw(st.sampled_from(NAMES) | st.text(max_size=20))
            facts = draw(st.sampled_from([FACTS, FACTS | {"size": None}, {"size": 0, "sha256": FACTS["sha256"]}]))
            return written(lambda it: it.update(files={name: facts}), kind)
        case "size" | "sha256" as field:
            value = draw(st.sampled_from([*NOTHINGS, *NAMES]))
            return written(lambda it: it["files"][WEIGHTS].update({field: value}), kind)
        case "missing":
            gone = draw(st.sampled_from([*places[:-3], "size"]))
            return written(
                lambda it: (it.pop(gone, None), it["files"][WEIGHTS].pop(gone, None)) if gone != "files" else it.pop(gone), kind
            )
        case "bytes":
            doubled = written(lambda it: None, kind)[:-1] + b', "stage_id": "x"}'
            many = [b"", b"null", b"[" * 100_000, b"{}", b'{"sha256": {}}', b"\xff\xfe", doubled, b"1" * 5000]
            return draw(st.sampled_from(many) | st.binary(max_size=30))
        case field:
            value = draw(st.sampled_from([*NOTHINGS, *NAMES, *([name] for name in NAMES), {"x": NAMES[0]}]))
            return written(lambda it: it.update({field: value}), kind)


LEASE = {
    "host": "h",
    "pid": 1,
    "system": "",
    "started": None,
    "token": "t",
    "ttl_s": 60.0,
    "expires": 9e9,
    "expires_monotonic": 9e9,
}


@st.composite
def leases(draw: st.DrawFn) -> tuple[str, bytes]:
    """(name, content) of a lease file of an attacker."""
    name = draw(st.sampled_from(["1", "01", "0", "9" * 16, "9" * 60, "-1", "1e3", "१", "x"]))
    field = draw(st.sampled_from([*LEASE]))
    value = draw(st.sampled_from([*NOTHINGS, *NAMES, "\x1b[2J"]))
    whole = json.dumps(LEASE | {field: value}).encode()
    return f"{name}.json", draw(st.sampled_from([whole, b"", b"[" * 100_000, b"{}"]))


HOSTILE = given(artifact=markers("artifact"), state=markers("state"), held=leases())


@QUICK
@HOSTILE
@example(written(lambda it: it.update(files={WAYS_OUT[2]: FACTS | {"size": None}}), "artifact"), b"", ("1.json", b""))
@example(written(lambda it: it.update(attempt="../../../canary"), "artifact"), b"", ("1.json", b""))
def test_hostile_markers_and_leases(place: Callable[[], Place], artifact: bytes, state: bytes, held: tuple[str, bytes]) -> None:
    it = place()
    for folder in (f"artifacts/{STAGE}/{ATTEMPT}", f"states/{STAGE}/{STATE}"):
        it.store.files.put(f"{folder}/{WEIGHTS}", b"of the attacker")
    it.store.files.write(f"artifacts/{STAGE}/COMPLETE.json", artifact)
    it.store.files.write(f"states/{STAGE}/{STATE}/STATE.json", state)
    it.store.files.write(f"leases/{STAGE}/{held[0]}", held[1])
    before = it.outside()
    assert CANARY not in it.use()
    assert it.outside() == before
    mended = it.store.get(STAGE)
    assert mended is not None
    assert mended.path(WEIGHTS).read_bytes() == b"ours"
    assert all(line.isprintable() for line in it.said)


@pytest.mark.parametrize("place", ["s3"], indirect=True)
@settings(QUICK, max_examples=4)
@HOSTILE
@example(written(lambda it: it.update(attempt="../../../canary"), "artifact"), b"", ("1.json", b""))
def test_hostile_markers_and_leases_on_s3(
    place: Callable[[], Place], artifact: bytes, state: bytes, held: tuple[str, bytes]
) -> None:
    test_hostile_markers_and_leases.hypothesis.inner_test(place, artifact, state, held)


def test_a_marker_of_another_stage_is_none(place: Callable[[], Place]) -> None:
    it = place()
    files = it.store.files
    artifact = it.store.publish(OTHER, {"rows": [1]}, {WEIGHTS: CANARY})
    it.store.save_state(OTHER, 7, {}, {WEIGHTS: CANARY})
    (state,) = files.names(f"states/{OTHER}")
    for path in (f"artifacts/{{}}/{artifact.attempt}/{WEIGHTS}", "artifacts/{}/COMPLETE.json"):
        files.write(path.format(STAGE), files.read(path.format(OTHER)))
    for name in (WEIGHTS, "STATE.json"):
        files.write(f"states/{STAGE}/{state}/{name}", files.read(f"states/{OTHER}/{state}/{name}"))
        files.write(f"states/{OTHER}/{'9' * 12}{state[12:]}/{name}", files.read(f"states/{OTHER}/{state}/{name}"))
    assert it.store.get(STAGE) is None
    assert it.store.load_state(STAGE) is None
    found = it.store.load_state(OTHER)
    assert found is not None
    assert found.step == 7
    assert "is damaged" in it.said[0]


def test_a_marker_that_is_told_to_be_damaged_is_told_once(place: Callable[[], Place]) -> None:
    it = place()
    it.store.files.remove = lambda path: None  # type: ignore[method-assign]  # a store that we may only read
    it.store.files.write(f"artifacts/{STAGE}/COMPLETE.json", b"{}")
    assert [it.store.get(STAGE) for _ in range(5)] == [None] * 5
    assert len(it.said) == 1


# --- links, and other things that are no files, on a local disk -------------------------------------------------------------------

LINKS = {
    "marker": f"artifacts/{STAGE}/COMPLETE.json",
    "file": f"artifacts/{STAGE}/{ATTEMPT}/{WEIGHTS}",
    "attempt": f"artifacts/{STAGE}/{ATTEMPT}",
    "stage": f"artifacts/{STAGE}",
    "state marker": f"states/{STAGE}/{STATE}/STATE.json",
    "state file": f"states/{STAGE}/{STATE}/{WEIGHTS}",
    "state": f"states/{STAGE}/{STATE}",
    "states of a stage": f"states/{STAGE}",
    "lease": f"leases/{STAGE}/1.json",
    "leases of a stage": f"leases/{STAGE}",
    "cache": "cache",
    "scratch": "cache/writing",
    "entry of scratch": "cache/writing/tmp12345678",
    "Ray's": f"ray/{ATTEMPT}",
}


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A store on a local disk with an artifact and a state of the content that the user's own file has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    it = Place("path", tmp_path)
    for path, kind in ((f"artifacts/{STAGE}/{ATTEMPT}", "artifact"), (f"states/{STAGE}/{STATE}", "state")):
        it.store.files.put(f"{path}/{WEIGHTS}", CANARY)
        marker = {"artifact": f"artifacts/{STAGE}/COMPLETE.json", "state": f"{path}/STATE.json"}[kind]
        it.store.files.write(marker, written(lambda it: None, kind))
    assert it.store.get(STAGE) is not None
    assert it.store.load_state(STAGE) is not None
    return it


def put_link(it: Place, path: str) -> None:
    """Replace what is there by a link to something of the user's that looks just like it."""
    there, target = it.folder / "store" / path, it.folder / "canary" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    there.parent.mkdir(parents=True, exist_ok=True)
    if there.exists():
        shutil.move(there, target)
    elif path.endswith(".json"):
        target.write_bytes(CANARY)
    else:
        target.mkdir()
        (target / "mine").write_bytes(CANARY)
    os.symlink(target, there)


@pytest.mark.parametrize("which", LINKS)
def test_what_a_link_leads_to_is_never_touched(local: Place, which: str) -> None:
    put_link(local, LINKS[which])
    for path in (local.folder / "canary").rglob("*"):
        os.utime(path, (1, 1))  # old enough for `collect`
    before = local.outside()
    read = local.use()
    assert local.outside() == before
    gone = LINKS[which].split("/")[0]
    assert len(read) == {"artifacts": 2, "states": 1}.get(
        gone, 3
    )  # of the artifact, which is set aside then, and twice of the state
    assert not (local.folder / "store" / LINKS["marker"]).is_symlink()
    assert not (local.folder / "store" / LINKS["stage"]).is_symlink()


@pytest.mark.parametrize("top", ["artifacts", "states", "leases"])
def test_a_top_folder_that_is_a_link_is_refused_with_words(local: Place, top: str) -> None:
    put_link(local, top)
    before = local.outside()
    uses: dict[str, list[Callable[[], Any]]] = {
        "artifacts": [lambda: local.store.get(STAGE), lambda: local.store.publish(OTHER, {}, {})],
        "states": [lambda: local.store.load_state(STAGE), lambda: local.store.save_state(STAGE, 9, {}, {})],
        "leases": [lambda: local.store.claim(OTHER).__enter__()],
    }
    for use in (*uses[top], lambda: local.store.collect(0.0)):
        with (
            pytest.raises(StoreError, match=f"{top}: a symbolic link, which a store must not contain"),
        ):
            use()
    assert local.outside() == before


@pytest.mark.parametrize("path", [LINKS["marker"], LINKS["file"], LINKS["state marker"], LINKS["state file"], LINKS["lease"]])
@pytest.mark.parametrize("what", ["pipe", "folder", "empty", "too large"])
def test_what_is_no_small_file_is_not_read(local: Place, path: str, what: str) -> None:
    there = local.folder / "store" / path
    there.parent.mkdir(parents=True, exist_ok=True)
    there.unlink(missing_ok=True)
    match what:
        case "pipe":
            os.mkfifo(there)  # reading it would wait for ever
        case "folder":
            there.mkdir()
        case "empty":
            there.touch()
        case "too large":
            there.touch()
            os.truncate(there, LARGEST + 1)
    began = time.monotonic()
    local.use()
    assert time.monotonic() - began < 20


def test_a_link_that_is_given_to_be_moved_stays_what_it_is(local: Place) -> None:
    source = local.folder / "link"
    source.symlink_to(local.folder / "canary" / WEIGHTS)
    artifact = local.store.publish(OTHER, {}, {WEIGHTS: source}, move=True)
    assert not artifact.path(WEIGHTS).is_symlink()
    assert artifact.path(WEIGHTS).read_bytes() == CANARY
    assert (local.folder / "canary" / WEIGHTS).read_bytes() == CANARY
    assert not source.exists()


# --- leases -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"ttl_s": 1e300},
        {"ttl_s": -1},
        {"expires_monotonic": 1e300},
        {"expires": 10**400},
        {"pid": True},
        {"host": "\x1b[2J"},
        {"host": "h" * 10_000},
        {"token": None},
        {"started": "x"},
    ],
    ids=lambda changes: f"{next(iter(changes))}={str(next(iter(changes.values())))[:9]!r}",
)
def test_no_lease_blocks_for_ever(local: Place, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TTL_S", 0.2)
    here = lease.this_process()
    living = LEASE | {"host": here.host, "pid": os.getppid(), "system": here.system, "started": lease._started(os.getppid())}
    living |= {"expires_monotonic": time.monotonic() - 1} if "ttl_s" in changes else {}
    local.store.files.write(f"leases/{OTHER}/1.json", json.dumps(living | changes).encode())
    began = time.monotonic()
    with local.store.claim(OTHER, poll_s=0.02) as claim:
        assert claim is not None
    assert time.monotonic() - began < 5
    assert all(line.isprintable() for line in local.said)


@pytest.mark.parametrize(
    "name", ["999999999999999.json", "1000000000000000.json", "9999999999999999.json", "99999999999999999.json"]
)
def test_no_count_of_generations_ends_the_counting(local: Place, name: str) -> None:
    dead = LEASE | {"host": lease.this_process().host, "system": lease.this_process().system, "started": 1}
    local.store.files.write(f"leases/{OTHER}/{name}", json.dumps(dead | {"pid": os.getpid()}).encode())
    with local.store.claim(OTHER, poll_s=0.02) as claim:
        assert claim is not None
        assert claim.holds()


# --- what today's writer writes is read -------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FILES = st.dictionaries(
    st.from_regex(r"[a-z0-9_][a-z0-9_-]{0,9}(\.[a-z]{1,3})?\.(json|parquet|safetensors)", fullmatch=True),
    st.binary(max_size=9),
    max_size=3,
).filter(lambda files: not {"complete.json", "state.json", "used.json", "damaged.json"} & set(files))


def same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)  # NaN is not equal to itself


@QUICK
@given(st.dictionaries(st.text(), JSON, max_size=4), FILES, st.integers(0, 2**40))
def test_what_is_written_is_read_back(local: Place, said: dict[str, Any], files: dict[str, bytes], step: int) -> None:
    name = stage_id("test", {"run": uuid4().hex})
    if fault_of(said):
        return
    local.store.publish(name, said, files)
    local.store.save_state(name, step, said, files)
    artifact, state = local.store.get(name), local.store.load_state(name)
    assert artifact is not None
    assert state is not None
    assert same([artifact.manifest, state.meta], [said, said])
    assert {each: artifact.path(each).read_bytes() for each in artifact.files} == files
    assert {each: state.path(each).read_bytes() for each in files} == files
    local.store.drop_files(name, list(files)[:1])
    pruned = local.store.get(name)
    assert pruned is not None
    assert list(pruned.pruned) == list(files)[:1]


def test_names_that_some_disks_do_not_tell_apart() -> None:
    with pytest.raises(ValueError, match="ignore the case of names"):
        checked_files({"a.json": b"", "A.json": b""})
    for data in (written(lambda it: it.update(files={"a.json": FACTS, "A.json": FACTS}), kind) for kind in ("artifact", "state")):
        assert artifact_marker(data, STAGE) is None
        assert state_marker(data, STAGE) is None


# --- manifests --------------------------------------------------------------------------------------------------------------------


def whole_manifest(kind: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys((*LOOP, *KINDS[kind]), 1) | {"split": "validation", "by_task": {"a": {"loss": 0.5}}}
    return {"kind": kind, "settings": {}, "tokens": 5, "seconds": 0.5, "rows": [row]}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_no_rows_are_damage(local: Place, kind: str) -> None:
    assert fault_of(whole_manifest(kind)) is None
    changes: list[dict[str, Any]] = [{"rows": rows} for rows in ([], None, {}, 3, [3], [[]], [{}], [None])]
    row = whole_manifest(kind)["rows"][0]
    changes += [{"rows": [row, {name: value for name, value in row.items() if name != gone}]} for gone in KINDS[kind]]
    changes += [{"rows": [row | {name: wrong}]} for name in KINDS[kind] for wrong in ("1", None, [], 10**30, True, "\x1b[2J")]
    changes += [
        {"rows": [row | extra]} for extra in ({"thresholds": ["a"]}, {"group_rates": 3}, {"notices": [3]}, {"by_task": {"a": 3}})
    ]
    changes += [{"settings": None}, {"tokens": -1}, {"seconds": "x"}] if kind != "test" else []
    for change in changes:
        said = whole_manifest(kind) | change
        if change == {"rows": [row | {"split": "1"}]} or said["rows"] == [row | {"by_task": None}]:
            continue
        assert fault_of(said) is not None, change
        with pytest.raises(ValueError, match="the manifest is invalid"):
            local.store.publish(OTHER, said, {})
        local.store.files.write(
            f"artifacts/{STAGE}/COMPLETE.json", written(lambda it, said=said: it.update(manifest=said), "artifact")
        )
        assert local.store.get(STAGE) is None, change


def test_a_manifest_of_another_kind_is_damage(local: Place) -> None:
    artifact = local.store.get(STAGE)
    assert artifact is not None
    with pytest.raises(DamagedArtifact, match="one of None, not of 'finetune'"):
        artifact.rows("finetune")
    assert local.store.get(STAGE) is None
    assert "is damaged and counts as missing" in local.said[-1]
