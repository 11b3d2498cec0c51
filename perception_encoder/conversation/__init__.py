"""Conversations about media: open images, videos and documents for a model that answers, and write captions."""
