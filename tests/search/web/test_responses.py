"""What the page's routes share: errors and lines of JSON."""

from __future__ import annotations

import json

import pytest

from perception_encoder.errors import ConfigError, MediaDecodeError, SearchIndexError
from perception_encoder.search.web.responses import error_response, json_line
from perception_encoder.serving.http import ApiError
from perception_encoder.serving.queues import QueueFullError


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("layer is 99"), 400, "layer is 99"),
        (SearchIndexError("of an earlier run"), 400, "of an earlier run"),
        (MediaDecodeError("a.jpg", "is empty"), 404, "a.jpg: is empty"),
        (QueueFullError("4 wait"), 429, "4 wait"),
        (ApiError(413, "too long"), 413, "too long"),
    ],
)
def test_an_error_has_a_status_and_its_message(error: Exception, status: int, message: str) -> None:
    response = error_response(error)
    assert response.status_code == status and json.loads(bytes(response.body)) == {"error": message}


def test_a_line_ends() -> None:
    assert json_line({"text": "a\nb"}) == b'{"text": "a\\nb"}\n'
