"""Perception Encoder: images, videos and text as vectors, in one space.

    from pathlib import Path
    import perception_encoder as pe

    encoder = pe.load("builtin")
    vectors = encoder.encode(["a red mug", Path("mug.jpg")])  # (2, D)

`__init__.pyi` lists the public names. Each is imported when it is first used: importing the package stays quick.
"""

import lazy_loader

_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    """Import a public name; the error for an unknown one names those that begin alike, or the nearest."""
    if name in __all__ or name.startswith("_"):
        return _import(name)
    from difflib import get_close_matches

    near = [known for known in __all__ if known.startswith(f"{name}_")] or get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise AttributeError(f"{__name__} has no attribute {name!r}{hint}", name=name)
