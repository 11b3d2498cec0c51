"""Drawing scenes and moving their objects with pybullet."""
