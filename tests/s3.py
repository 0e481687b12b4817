"""An S3 server on this machine: what a user with a MinIO has, an address and keys in the environment."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from uuid import uuid4

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
NOBODYS = {
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",  # who cannot be reached is not asked five times
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}
"""Variables that keep the user's own keys, regions and proxies out."""


@contextlib.contextmanager
def server() -> Iterator[dict[str, str]]:
    """moto's server on a free port of the loopback: the variables that lead to it, and keys that may do everything."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        running.start()
    host, port = running.get_host_and_port()
    try:
        yield NOBODYS | dict.fromkeys(KEYS, "testing") | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    finally:
        running.stop()


def make_bucket(url: str) -> str:
    """Make the bucket of this URL."""
    import boto3

    boto3.client("s3").create_bucket(Bucket=url.removeprefix("s3://"))
    return url


def new_bucket() -> str:
    """The URL of a new, empty bucket."""
    return make_bucket(f"s3://bucket-{uuid4().hex}")


def keys_for(*actions: str) -> dict[str, str]:
    """Variables with the keys of a new user who may do that alone, such as s3:Get*."""
    import boto3

    iam, name = boto3.client("iam"), f"user-{uuid4().hex}"
    iam.create_user(UserName=name)
    if actions:
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return dict(zip(KEYS, (key["AccessKeyId"], key["SecretAccessKey"]), strict=True))


@contextlib.contextmanager
def asking_for_keys() -> Iterator[None]:
    """The server looks at keys and what their owners may do."""
    import moto.settings
    from moto.core.responses import ActionAuthenticatorMixin

    before = moto.settings.INITIAL_NO_AUTH_ACTION_COUNT
    moto.settings.INITIAL_NO_AUTH_ACTION_COUNT, ActionAuthenticatorMixin.request_count = 0.0, 0
    try:
        yield
    finally:
        moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = before
