"""What a scene consists of and where it stands: objects, room, light and camera."""
