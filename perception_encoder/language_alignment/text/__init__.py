"""The language model of a language alignment: loading, prompts, adapters and generation."""
