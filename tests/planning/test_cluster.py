"""Plans on a cluster."""

from __future__ import annotations

import dataclasses

import pytest

from perception_encoder.data.pairs import Stage
from perception_encoder.errors import ConfigError
from perception_encoder.planning.cluster import Cluster
from perception_encoder.planning.devices import Device
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.plan import plan_pretraining

CONFIG = PretrainingConfig(
    model="builtin", stages=(Stage(image_size=32, steps=10), Stage(image_size=64, steps=5, batch_size=8)), batch_size=16
)


CLUSTER = Cluster(device=Device(flops=1e12, memory=1e9), devices=4, utilization=0.5)


def test_wrong_clusters_are_named() -> None:
    with pytest.raises(ConfigError, match="a batch of 8 cannot be shared by 9 devices"):
        plan_pretraining(CONFIG, dataclasses.replace(CLUSTER, devices=9))
    for wrong in ({"devices": 0}, {"utilization": 1.5}, {"device": Device(flops=0, memory=1)}):
        with pytest.raises(ConfigError, match="a cluster of"):
            dataclasses.replace(CLUSTER, **wrong)
