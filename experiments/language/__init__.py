"""Language alignment in small: the built-in language model's data, and table 9 and figure 13 of the paper."""
