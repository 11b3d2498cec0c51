"""Perception Encoder: images, videos and text as vectors, in one space.

    from pathlib import Path
    import perception_encoder as pe

    encoder = pe.load("builtin")
    vectors = encoder.encode(["a red mug", Path("mug.jpg")])  # (2, D)

`__init__.pyi` lists the public names. Each is imported when it is first used: importing the package stays quick.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
