"""The metrics of the embedding server."""

from __future__ import annotations

from fastapi.testclient import TestClient


def test_metrics_count_what_was_answered(client: TestClient) -> None:
    client.post("/v1/embeddings", json={"input": ["a", "b"]})
    client.post("/v1/embeddings", json={})
    text = client.get("/metrics").text
    assert 'pe_requests_total{status="200"} 1.0' in text and 'pe_requests_total{status="400"} 1.0' in text
    assert "pe_batch_inputs_sum 2.0" in text and "pe_request_seconds_count 2.0" in text
    assert "pe_waiting_inputs 0.0" in text
