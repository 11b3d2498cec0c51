"""Models of timm, open_clip and transformers behind the same interface."""
