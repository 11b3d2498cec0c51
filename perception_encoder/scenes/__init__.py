"""Pictures and short videos rendered from real meshes, with everything about them known exactly."""
