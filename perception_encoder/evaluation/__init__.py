"""Evaluators: zero-shot classification and retrieval, probes, dense tasks, and the suite of them."""
