"""What fits on a machine or a cluster."""

from __future__ import annotations

import re
from typing import Any

import pytest

from study.cluster.machine import Machine, check_resources, this_machine
from study.definition.models import Resources
from trainables.settings.errors import ConfigError

Nodes = tuple[tuple[float, float], ...]


@pytest.mark.parametrize(
    ("given", "nodes", "expected"),
    [
        ({}, ((8, 0),), 8),
        ({"concurrent": 3}, ((8, 0),), 3),
        ({"workers": 2, "cpus": 2}, ((8, 0),), 2),
        ({"gpus": 1}, ((64, 4),), 4),
        ({"gpus": 0.5}, ((64, 2),), 4),
        ({"gpus": 0.1}, ((64, 1),), 10),
        ({"gpus": 0.4}, ((64, 2),), 4),
        ({"concurrent": 16, "workers": 4, "gpus": 1}, ((64, 8),), 2),
        ({"cpus": 3}, ((4, 0), (4, 0), (1, 0)), 2),
        ({"cpus": 8, "gpus": 1}, ((4, 0), (8, 4), (32, 4)), 5),
    ],
)
def test_never_more_trials_at_once_than_have_all_their_workers(given: dict[str, Any], nodes: Nodes, expected: int) -> None:
    assert Machine(nodes).trials(Resources(**given)) == expected


@pytest.mark.parametrize(
    ("given", "nodes", "fault"),
    [
        ({"cpus": 3}, ((2, 0),), "3 requested for a trial, but X has 2 CPUs"),
        ({"workers": 3, "gpus": 1}, ((8, 2),), "3 workers with 1 each requested for a trial, but X has 2 GPUs"),
        (
            {"workers": 2, "cpus": 3},
            ((4, 0), (2, 0)),
            (
                "2 workers with 3 CPUs and 0 GPUs each requested for a trial,"
                " but the nodes of X have 4 CPUs and 0 GPUs, 2 CPUs and 0 GPUs"
            ),
        ),
    ],
)
def test_a_trial_that_fits_nowhere(given: dict[str, Any], nodes: Nodes, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_resources(Resources(**given), Machine(nodes), "X")
    assert [text.split(": ")[1] for text in caught.value.faults] == [fault]


@pytest.mark.parametrize(
    ("cpus", "gpus", "nodes", "expected"),
    [
        (1, 0, ((4, 0),), (1, 4, 0)),
        (1, 0, ((4, 0), (3, 0)), (2, 3, 0)),
        (1, 0, ((64, 0), (2, 0)), (1, 64, 0)),
        (1, 0, ((0, 0), (8, 0), (8, 0)), (2, 8, 0)),
        (4, 1, ((4, 0), (16, 4), (8, 4)), (6, 4, 1)),
        (2, 0.5, ((16, 2), (3, 2)), (3, 2, 1)),  # trials share a GPU, workers of one stage cannot
        (2, 2, ((16, 4),), (2, 2, 2)),
    ],
)
def test_a_shared_stage_takes_what_can_work_together(
    cpus: float, gpus: float, nodes: Nodes, expected: tuple[int, float, float]
) -> None:
    assert Machine(nodes).all_for_one(cpus, gpus) == expected


def test_a_machine_is_described_by_its_hardware_and_a_cluster_by_what_it_offers() -> None:
    assert re.fullmatch(r"\S.*, \d+ CPU cores?, \d+ GiB of memory, \w+", this_machine().hardware)
    assert Machine(((4, 1), (4, 1)), joined=True).hardware == "Ray cluster of 2 nodes with 8 CPUs and 2 GPUs"
