"""The package's encoders have everything that the protocols name."""

from __future__ import annotations

import pytest

from perception_encoder.inference.encoder import Encoder
from perception_encoder.models import protocols
from perception_encoder.models.external.layer_encoders import TowerEncoder


@pytest.mark.parametrize(
    ("protocol", "encoder"), [(protocols.ImageTextEncoder, Encoder), (protocols.LayerEncoder, TowerEncoder)]
)
def test_encoders_implement_their_protocol(protocol: type, encoder: type) -> None:
    named = {name for each in protocol.__mro__ for name in vars(each) if not name.startswith("_")}
    attributes = {name for each in encoder.__mro__ for name in vars(each)} | {"name"}
    assert len(named) > 2 and named <= attributes
