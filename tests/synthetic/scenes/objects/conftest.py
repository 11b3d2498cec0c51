"""An OBJ file with two materials, as text."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image

OBJ = """mtllib a.mtl
v 0 0 0
v 2 0 0
v 2 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
vn 0 0 1
usemtl plain
f 1/1/1 2/2/1 3/3/1
usemtl textured
f -4/-4/1 -2/-2/1 -1/-1/1
"""
MTL = "newmtl plain\nKd 1 0 0\nnewmtl textured\nKd 0 0 0\nmap_Kd -s 1 1 1 a.png\n"


def png(colour: tuple[int, ...], mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


def files(**contents: bytes | str) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        content = contents[name.replace(".", "_")]
        return content.encode() if isinstance(content, str) else content

    return read
