"""Which layer serves a language model: a small one is fitted on each layer of a frozen encoder (section 3)."""
