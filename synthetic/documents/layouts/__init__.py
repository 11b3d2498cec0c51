"""The layouts of each kind of document, with their questions."""
