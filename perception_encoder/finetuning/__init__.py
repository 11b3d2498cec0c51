"""Finetuning a checkpoint on your own pairs."""
