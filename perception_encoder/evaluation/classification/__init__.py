"""Zero-shot classification, k-NN, linear and attentive probes."""
