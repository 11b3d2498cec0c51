"""How a model's towers are executed: torch, the reference, or OpenVINO, the fastest on a CPU."""
