"""Models that caption and summarize, behind one protocol: ours, those of transformers, and endpoints."""
