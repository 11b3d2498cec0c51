"""Zero-shot protocols, probes and the evaluation suite."""
