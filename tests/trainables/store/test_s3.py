"""What only S3 has: keys and rights, buckets, marks of folders, and addresses that mean something else there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from s3fs import S3FileSystem

from tests import s3
from tests.helpers import read_all
from trainables.store.store import TWICE, Store, StoreError

FILES = {"model.safetensors": b"weights"}


def writes(store: Store) -> list[Callable[[], Any]]:
    """All that changes a store."""
    return [
        store.check_writable,
        lambda: store.publish("stage", {}, FILES),
        lambda: store.save_state("stage", 1, {}, FILES),
        lambda: store.claim("stage").__enter__(),
    ]


@pytest.mark.parametrize(
    ("keys", "reason", "advice"),
    [
        ({}, "Unable to locate credentials", "give keys as AWS_ACCESS_KEY_ID"),
        ({"AWS_ACCESS_KEY_ID": "x"}, "Partial credentials found", "give keys as AWS_ACCESS_KEY_ID"),
        ({"AWS_PROFILE": "nobody"}, r"profile \(nobody\) could not be found", "give keys as AWS_ACCESS_KEY_ID .*or as a profile"),
        (dict.fromkeys(s3.KEYS, "unknown"), "does not exist in our records|Forbidden", "give yourself access"),
        ((), "Access Denied|Forbidden", "give yourself access"),
        (("s3:Get*", "s3:List*"), "Access Denied", "give yourself access"),
    ],
    ids=["no keys", "half of them", "no such profile", "unknown keys", "no rights", "read only"],
)
def test_who_may_not_write_is_told_so(
    bucket: str, keys: dict[str, str] | tuple[str, ...], reason: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(f"{bucket}/store").publish("there", {}, FILES)
    given = keys if isinstance(keys, dict) else s3.keys_for(*keys)
    for name in s3.KEYS:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    with s3.asking_for_keys():
        for action in writes(Store(f"{bucket}/store")):
            with pytest.raises(StoreError, match=rf"store {bucket}/store: cannot (read|write) .*({reason}).*; {advice}.*--store"):
                action()
        if "s3:Get*" in keys:
            artifact = Store(f"{bucket}/store").get("there")
            assert artifact is not None
            read_all(artifact)


def test_who_may_not_delete_is_told_so_before_the_work(bucket: str) -> None:
    """The server answers one request for many deletions with 200, whatever it did."""
    name = bucket.removeprefix("s3://")
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{name}/*"}
    boto3.client("s3").put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    with pytest.raises(StoreError, match=r"cannot remove from .*: what was removed is still there; give yourself access"):
        Store(f"{bucket}/store").check_writable()


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    store = Store(f"{bucket}-gone/store")
    assert (store.get("stage"), store.load_state("stage")) == (None, None)
    for action in writes(store):
        with pytest.raises(StoreError, match=f"store {store.url}: cannot write .*bucket does not exist; make the bucket"):
            action()


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("s3://key:secret@bucket/store", "keys in the address are not read; give them as AWS_ACCESS_KEY_ID"),
        ("s3a://key@bucket", "keys in the address are not read"),
        ("s3://bucket/store?versionId=3", "? is a wildcard in a URL; name a folder without it"),
        ("s3://bucket/mine*", "* is a wildcard"),  # removing below it would remove below others
        ("memory://mine[ab]", "[ is a wildcard"),
        ("s3://", "no bucket is named; write s3://BUCKET/FOLDER"),
        ("s3:///store", "no bucket is named"),
    ],
)
def test_addresses_that_mean_something_else_are_refused(url: str, fault: str) -> None:
    with pytest.raises(StoreError) as caught:
        Store(url)
    assert fault in str(caught.value)
    assert "secret" not in str(caught.value).replace("AWS_SECRET", "")


@pytest.mark.parametrize("folder", ["", "/", "/a", "/a/b/", "/a#b", "/ä ö/%20"])
def test_folders_in_a_bucket(bucket: str, folder: str) -> None:
    store = Store(bucket + folder)
    store.check_writable()
    read_all(store.publish("stage", {}, FILES))
    client, name = boto3.client("s3"), bucket.removeprefix("s3://")
    keys = [each["Key"] for each in client.list_objects_v2(Bucket=name)["Contents"]]
    place = f"{folder.strip('/')}/".lstrip("/")
    assert len(keys) == 2
    assert all(key.startswith(f"{place}artifacts/stage/") for key in keys), keys


def test_marks_of_folders_as_consoles_make_them_are_no_files(bucket: str) -> None:
    store, client, name = Store(f"{bucket}/store"), boto3.client("s3"), bucket.removeprefix("s3://")
    for folder in (
        "",
        "artifacts/",
        "artifacts/stage/",
        "artifacts/stage/COMPLETE.json/",
        "leases/",
        "leases/stage/",
        "states/stage/",
    ):
        client.put_object(Bucket=name, Key=f"store/{folder}", Body=b"")
    store.check_writable()
    assert (store.get("stage"), store.load_state("stage"), store.files.names("leases/stage")) == (None, None, [])
    with store.claim("stage", wait=False) as claim:
        assert claim is not None
        store.save_state("stage", 1, {}, FILES)
        read_all(store.publish("stage", {}, FILES))
    store.collect(0.0)
    assert store.get("stage") is not None


def test_what_another_process_writes_and_removes_is_seen_at_once(bucket: str) -> None:
    """The driver keeps listings, and another process does not tell it."""
    store, client, name = Store(f"{bucket}/store"), boto3.client("s3"), bucket.removeprefix("s3://")
    for number in (1, 2, 3):
        client.put_object(Bucket=name, Key=f"store/leases/stage/{number}.json", Body=b"{}")
        assert store.files.names("leases/stage") == [f"{number}.json"]
        assert store.files.bytes_in("leases") == 2
        assert not store.files.create(f"leases/stage/{number}.json", b"")
        client.delete_object(Bucket=name, Key=f"store/leases/stage/{number}.json")
        assert store.files.names("leases") == []
        with pytest.raises(FileNotFoundError):
            store.files.read(f"leases/stage/{number}.json")


def test_a_server_that_creates_twice_is_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    store = Store(f"{bucket}/store", said.append)
    monkeypatch.setattr(store.files, "create", lambda path, data: store.files.write(path, data) or True)
    store.check_writable()
    assert said == [f"{TWICE}: {store.url}"]
    assert store.files.names("") == []


def test_a_server_that_is_away(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=r"cannot write .*Could not connect to the endpoint URL.*see that it can be reached"):
        Store(f"{bucket}/store").check_writable()
