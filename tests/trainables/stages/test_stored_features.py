"""What a frozen encoder says is computed once, for every trial that starts from it, and gives what running it would."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import tiny_recipe
from tests.trainables.resume import tuned_weights
from trainables.heads import classifier
from trainables.scores import evaluate
from trainables.settings.execution import Execution
from trainables.settings.recipe import Recipe
from trainables.settings.stages import Finetune
from trainables.stages import features, jobs
from trainables.stages.identity import nodes
from trainables.stages.inputs import Inputs
from trainables.stages.jobs import base_of
from trainables.stages.run_recipe import evaluate_test, run
from trainables.store.artifact_files import FEATURES, WEIGHTS
from trainables.store.store import Artifact, DamagedArtifact, Store
from trainables.training.world import World

ONE_THREAD = Execution(threads=1)
BILSTM: dict[str, Any] = {"pooling": "bilstm", "lstm_width": 7, "attention_width": 6, "attention_hops": 3, "attention_penalty": 0.1}
WAYS: dict[str, dict[str, Any]] = {
    "pooled": {},
    "cls": {"pooling": "cls", "layers": (0, 1), "combine": "max"},
    "mean": {"pooling": "mean", "layers": (0,), "head": "mlp"},
    "bilstm": BILSTM,
    "fractions": {"truncation": "hier-attention", "max_length": 12},
    "fractions-pooled": {"truncation": "hier-max", "max_length": 12, "pooling": "mean"},
}


def frozen(folder: Path, pretrain: dict[str, Any] | None = None, **fields: Any) -> Recipe:
    return tiny_recipe(folder, pretrain, freeze="encoder", **fields)


def kept(store: Store) -> dict[str, Artifact]:
    """All features in a store."""
    artifacts = [store.get(name) for name in store.files.names("artifacts")]
    return {each.stage_id: each for each in artifacts if each is not None and each.has(FEATURES)}


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of sequences in each pass through the encoder."""
    passes: list[int] = []
    real = classifier.layer_states

    def counted(encoder: Any, batch: Any, layers: Any, rows: Any) -> Any:
        passes.append(len(batch.lengths))
        return real(encoder, batch, layers, rows)

    monkeypatch.setattr(classifier, "layer_states", counted)
    return passes


@pytest.mark.parametrize("way", WAYS)
def test_training_on_features_equals_training_on_the_encoder(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    """Dropout in the head on. Not to the bit: texts go through the encoder in other company, and sums are rounded otherwise."""
    made = frozen(tmp_path, **WAYS[way])
    stored, running = Store(tmp_path / "stored"), Store(tmp_path / "running")
    rows = [*run(made, stored, ONE_THREAD), evaluate_test(made, stored, ONE_THREAD)]
    once = sum(encoded)
    monkeypatch.setattr(jobs, "features_of", lambda recipe, node, store: None)
    others = [*run(made, running, ONE_THREAD), evaluate_test(made, running, ONE_THREAD)]
    assert len(kept(stored)) == 3
    assert not kept(running)
    if "fractions" not in way:
        assert once == 45 + 15 + 24
        assert sum(encoded) - once == 2 * (45 + 15) + 24
    for one, other in zip(rows, others, strict=True):
        assert one["error_rate_percent"] == other["error_rate_percent"]
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one.get("train_loss", 0) == pytest.approx(other.get("train_loss", 0), abs=1e-5)
    found = tuned_weights(stored, made)
    assert found.keys() == tuned_weights(running, made).keys()
    for name, tensor in tuned_weights(running, made).items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_another_head_rate_or_seed_does_not_run_the_encoder(tmp_path: Path, encoded: list[int]) -> None:
    store = Store(tmp_path / "store")
    for fields in ({}, {"learning_rate": 5e-3}, {"head": "mlp", "dropout": 0.3}, {"pooling": "pooled"}, {"batch_size": 5}):
        made = frozen(tmp_path, **{"pooling": "cls"} | fields)
        for seed in (0, 1):
            list(run(made.model_copy(update={"seed": seed}), store, ONE_THREAD))
        evaluate_test(made, store, ONE_THREAD)
        assert sum(encoded) == 45 + 15 + 24
    assert len(kept(store)) == 3
    list(run(frozen(tmp_path, pooling="mean"), store, ONE_THREAD))
    assert sum(encoded) == 2 * (45 + 15) + 24


def test_an_encoder_that_is_trained_or_random_has_no_features(tmp_path: Path) -> None:
    for name, made in (("trained", tiny_recipe(tmp_path)), ("random", frozen(tmp_path, reinit_layers=1))):
        store = Store(tmp_path / name)
        list(run(made, store, ONE_THREAD))
        assert not kept(store)


def test_features_start_from_the_parent(tmp_path: Path) -> None:
    """Those of a further pre-trained encoder are its own."""
    store, made = Store(tmp_path / "store"), frozen(tmp_path, pretrain={"learning_rate": 1e-2}, pooling="cls")
    alone = made.model_copy(update={"stages": made.stages[1:]})
    for each in (made, alone):
        list(run(each, store, ONE_THREAD))
    found: dict[str, dict[str, torch.Tensor]] = {}
    for artifact in kept(store).values():
        settings = artifact.manifest["settings"]
        found.setdefault(settings["texts"], {})[settings["source"]] = load_file(artifact.path(FEATURES))["features"]
    assert len(found) == 2
    for rows in found.values():
        assert rows.keys() == {nodes(Inputs(made))[0].stage_id, Inputs(alone).encoder_id}
        assert not torch.allclose(*rows.values(), atol=1e-3)


def id_of(store: Store, made: Recipe) -> str:
    node = nodes(Inputs(made))[-1]
    where = jobs.features_of(Inputs(made), node, store)
    assert where is not None
    return features.stage_id("features", where.determines(Inputs(made).target.train, base_of(Inputs(made))))


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"learning_rate": 1.0, "epochs": 9, "dropout": 0.4, "head": "mlp", "seed": 5, "xi": 0.5}, True),
        ({"pooling": "pooled"}, True),
        ({"layers": (1,)}, True),
        ({"combine": "max"}, True),
        ({"pooling": "mean"}, False),
        ({"pooling": "bilstm"}, False),
        ({"layers": (0,)}, False),
        ({"layers": (0, 1)}, False),
        ({"truncation": "tail"}, False),
        ({"truncation": "hier-mean"}, False),
        ({"head_tokens": 7}, False),
        ({"max_length": 20}, False),
    ],
    ids=str,
)
def test_what_features_depend_on(fields: dict[str, Any], same: bool, tmp_path: Path) -> None:
    store, seed = Store(tmp_path / "store"), fields.pop("seed", 0)
    made, other = frozen(tmp_path, pooling="cls"), frozen(tmp_path, **{"pooling": "cls"} | fields)
    assert (id_of(store, made) == id_of(store, other.model_copy(update={"seed": seed}))) is same
    assert id_of(store, made) != id_of(store, made.model_copy(update={"precision": "bfloat16"}))


def test_joins_of_fractions_share_their_features_and_several_layers_do_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    ids = [id_of(store, frozen(tmp_path, truncation=f"hier-{join}", pooling="cls")) for join in ("mean", "max", "attention")]
    assert len(set(ids)) == 1
    capped = id_of(store, frozen(tmp_path, truncation="hier-mean", max_fractions=3, pooling="cls"))
    both = [id_of(store, frozen(tmp_path, layers=(0, 1), combine=how, pooling="cls")) for how in ("concat", "mean", "max")]
    assert len({*ids, capped, *both}) == 5


@pytest.mark.parametrize("way", ["bilstm", "cls"])
def test_rows_are_the_same_bits_whatever_the_micro_batch(way: str, tmp_path: Path) -> None:
    stores = [Store(tmp_path / name) for name in ("a", "b")]
    for store, micro in zip(stores, (0, 3), strict=True):
        list(run(frozen(tmp_path, **WAYS[way]), store, Execution(threads=1, micro_batch=micro)))
    one, other = (kept(store) for store in stores)
    assert one.keys() == other.keys()
    for name, artifact in one.items():
        assert artifact.files[FEATURES] == other[name].files[FEATURES]  # size and digest


@pytest.mark.parametrize("way", ["bilstm", "fractions"])
def test_resume_gives_the_same_bits(way: str, tmp_path: Path) -> None:
    made = frozen(tmp_path, **WAYS[way], epochs=3)
    whole, halves = Store(tmp_path / "whole"), Store(tmp_path / "halves")
    rows = list(run(made, whole, ONE_THREAD))
    begun = run(made, halves, ONE_THREAD)
    next(begun)
    begun.close()
    for artifact in kept(halves).values():  # gone meanwhile: made again
        halves.files.remove(f"artifacts/{artifact.stage_id}")
    again = list(run(made, halves, ONE_THREAD))
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in rows]
    found = tuned_weights(halves, made)
    assert all(torch.equal(tensor, found[name]) for name, tensor in tuned_weights(whole, made).items())


def test_an_artifact_needs_no_features(tmp_path: Path) -> None:
    """What training left is a whole model: without its store of features it answers the same."""
    made, store = frozen(tmp_path, **BILSTM), Store(tmp_path / "store")
    list(run(made, store, ONE_THREAD))
    base = base_of(Inputs(made))
    found = tuned_weights(store, made)
    for name, tensor in base.model.state_dict().items():
        if f"encoder.{name}" in found:
            assert torch.equal(found[f"encoder.{name}"], tensor)
    assert any(name.startswith("reader.lstm") for name in found)
    for artifact in kept(store).values():
        store.files.remove(f"artifacts/{artifact.stage_id}")
    assert evaluate_test(made, store, ONE_THREAD)["examples"] == 24
    assert len(kept(store)) == 1


def test_a_file_is_written_in_parts_and_read_as_a_map(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(23, 5)).astype(np.float32)
    path = features.write(tmp_path / FEATURES, 23, (rows[i : i + 4] for i in range(0, 23, 4)))
    assert torch.equal(load_file(path)["features"], torch.from_numpy(rows))
    found = features.read(path, 23)
    assert np.array_equal(found, rows)
    base: Any = found
    while not isinstance(base, np.memmap):
        base = base.base
    assert not found.flags.writeable
    assert found[3:9].base is not None  # a view: nothing was read for it


def header(shape: Any) -> bytes:
    text = json.dumps({"features": {"dtype": "F32", "shape": shape, "data_offsets": [0, 20]}}).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        (10**9).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"{}",
        (4000).to_bytes(8, "little") + b"[" * 4000,
        *(
            header(shape) + bytes(20)
            for shape in ([5, 2], [4, 1], [-5, -1], [5, 10**12], [5, 1.0], [5, "1"], [5], 5, None, [5, 1, 1])
        ),
    ],
    ids=lambda data: repr(data[8:][-70:-20])[:40],
)
def test_a_file_of_other_rows_is_damage(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five rows, with digests that are right: the store sets it aside, and nobody trains on what it is not."""
    store, made = Store(tmp_path / "store", notice=lambda line: None), frozen(tmp_path)
    store.publish("0" * 32, {"kind": "features"}, {FEATURES: data})
    monkeypatch.setattr(features, "stage_id", lambda kind, determines: "0" * 32)
    stage = made.stages[-1]
    assert isinstance(stage, Finetune)
    kept_rows = features.Features(stage, "source", "float32", store)
    monkeypatch.setattr(features.Features, "determines", lambda self, split, base: {})
    monkeypatch.setattr(features.Features, "rows_of", lambda self, example: 1)
    given: Any = [SimpleNamespace(ids=[1]) for _ in range(5)]
    nothing: Any = SimpleNamespace(world=World())  # what would compute them is not asked
    with pytest.raises(DamagedArtifact, match=FEATURES):
        kept_rows.of(nothing, given, nothing, nothing, nothing)
    assert store.get("0" * 32) is None


def test_many_parts_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [Store(tmp_path / name) for name in ("one", "many")]
    made = frozen(tmp_path, **BILSTM)
    list(run(made, stores[0], ONE_THREAD))
    monkeypatch.setattr(evaluate, "EVALUATION_TOKENS", 50)
    list(run(made, stores[1], ONE_THREAD))
    one, many = (kept(store) for store in stores)
    for name, artifact in one.items():
        rows = [load_file(each.path(FEATURES))["features"] for each in (artifact, many[name])]
        torch.testing.assert_close(rows[0], rows[1], rtol=1e-4, atol=1e-5)


def test_damaged_features_are_made_again(tmp_path: Path, encoded: list[int]) -> None:
    store = Store(tmp_path / "store", notice=(said := []).append)  # type: ignore[var-annotated]
    list(run(frozen(tmp_path, pooling="cls"), store, ONE_THREAD))
    before = sum(encoded)
    damaged = next(iter(kept(store).values()))
    path = damaged.path(FEATURES)
    path.write_bytes(path.read_bytes()[:-4])
    list(run(frozen(tmp_path, pooling="cls", learning_rate=5e-3), store, ONE_THREAD))
    assert before < sum(encoded) < 2 * before
    assert any("is damaged" in line for line in said)


def test_what_another_process_computes_is_waited_for(tmp_path: Path, encoded: list[int]) -> None:
    made, said = frozen(tmp_path, pooling="cls"), []  # type: ignore[var-annotated]
    there, store = Store(tmp_path / "there"), Store(tmp_path / "store", notice=said.append)
    list(run(made, there, ONE_THREAD))
    name, claimed = id_of(there, made), threading.Event()
    encoded.clear()

    def other() -> None:
        other_store = Store(tmp_path / "store")
        with other_store.claim(name) as claim:
            assert claim is not None
            claimed.set()
            for _ in range(3000):
                if said:
                    break
                time.sleep(0.01)
            other_store.publish(name, {}, {FEATURES: kept(there)[name].path(FEATURES)})

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(other)
        assert claimed.wait(30)
        rows = list(run(made, store, ONE_THREAD))
        done.result()
    assert f"waiting for stage {name}" in said[0]
    assert sum(encoded) == 15, "the validation split alone"
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in run(made, there, ONE_THREAD)]


def test_features_that_nobody_uses_are_collected(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    list(run(frozen(tmp_path, pooling="cls"), store, ONE_THREAD))
    list(run(frozen(tmp_path, pooling="mean"), store, ONE_THREAD))
    an_hour_ago = time.time() - 3600
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (an_hour_ago, an_hour_ago))
    names = {name: each.manifest["settings"]["rows"] for name, each in kept(store).items()}
    list(run(frozen(tmp_path, pooling="cls", learning_rate=5e-3), store, ONE_THREAD))  # uses two of the four
    trained = [nodes(Inputs(frozen(tmp_path, pooling=pooling)))[-1].stage_id for pooling in ("cls", "mean")]
    assert store.collect(older_than_s=7200).attempts == 0
    report = store.collect(older_than_s=1800)
    assert report.attempts == 2
    assert report.bytes > 60 * 32 * 4
    assert {names[name] for name in kept(store)} == {"firsts"}
    assert all(store.get(name, needs=[WEIGHTS]) is not None for name in trained), "what was trained stays"
    list(run(frozen(tmp_path, pooling="mean", learning_rate=5e-3), store, ONE_THREAD))
    assert kept(store).keys() == names.keys()


def test_a_store_on_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    here, there = Store(tmp_path / "here"), Store(f"dir::file://{tmp_path}/there")
    rows = [list(run(frozen(tmp_path, **BILSTM), store, ONE_THREAD)) for store in (here, there)]
    assert [row["train_loss"] for row in rows[0]] == [row["train_loss"] for row in rows[1]]
    assert kept(here).keys() == kept(there).keys()


def test_few_texts_have_features_of_their_own(tmp_path: Path, encoded: list[int]) -> None:
    list(run(frozen(tmp_path, pooling="cls", train_examples=10), Store(tmp_path / "store"), ONE_THREAD))
    assert sum(encoded) == 10 + 15


def test_what_makes_an_encoder_fixed() -> None:
    assert Finetune(freeze="encoder").fixed_encoder
    for stage in (Finetune(), Finetune(freeze="embeddings"), Finetune(freeze=12), Finetune(freeze="encoder", reinit_layers=1)):
        assert not stage.fixed_encoder
