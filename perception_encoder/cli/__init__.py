"""The pe command: one module a noun."""
