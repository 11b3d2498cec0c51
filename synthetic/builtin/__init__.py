"""How the built-in models were trained: recipes, rules about their sources, and what is held out."""
