"""Small PDF files, written by hand: pages of one colour each, and one with a password."""

from __future__ import annotations

import io
from collections.abc import Sequence

COLOURS = ("1 0 0", "0 1 0", "0 0 1")


def pdf(sizes: Sequence[tuple[int, int]], encrypted: bool = False) -> bytes:
    """A PDF of pages of these sizes in points, filled with red, green, blue, red and so on."""
    count = len(sizes)
    kids = " ".join(f"{3 + 2 * n} 0 R" for n in range(count))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {count} >>"]
    for number, (width, height) in enumerate(sizes):
        content = f"{COLOURS[number % 3]} rg 0 0 {width} {height} re f"
        box = f"/MediaBox [0 0 {width} {height}]"
        objects.append(f"<< /Type /Page /Parent 2 0 R {box} /Contents {4 + 2 * number} 0 R >>")
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    trailer = ""
    if encrypted:
        trailer = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{'41' * 32}> /U <{'42' * 32}> /P -4 >>"
        trailer += f" /ID [<{'43' * 16}> <{'43' * 16}>]"
    return _file([text.encode() for text in objects], trailer)


def pdf_of_image(jpeg_2000: bytes, side: int) -> bytes:
    """A PDF of a page that a JPEG 2000 fills, which says that it has this width and height."""
    content, resources = "200 0 0 200 0 0 cm /I Do", "/Resources << /XObject << /I 5 0 R >> >>"
    texts = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents 4 0 R {resources} >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        f"<< /Type /XObject /Subtype /Image /Width {side} /Height {side} /ColorSpace /DeviceRGB /BitsPerComponent 8 "
        f"/Filter /JPXDecode /Length {len(jpeg_2000)} >>\nstream\n",
    ]
    objects = [text.encode() for text in texts]
    objects[-1] += jpeg_2000 + b"\nendstream"
    return _file(objects, "")


def pdf_of_nested_forms(depth: int, times: int) -> bytes:
    """A small PDF of a page that draws `times` to the power of `depth` rectangles: each form draws the next."""
    draw, form = "/F Do " * times, "<< /Type /XObject /Subtype /Form /BBox [0 0 99 99]"
    texts = ["<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [3 0 R] /Count 1 >>"]
    resources = "/Resources << /XObject << /F {} 0 R >> >>"
    texts.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R {resources.format(5)} >>")
    texts.append(f"<< /Length {len(draw)} >>\nstream\n{draw}\nendstream")
    for number in range(5, 4 + depth):
        texts.append(f"{form} {resources.format(number + 1)} /Length {len(draw)} >>\nstream\n{draw}\nendstream")
    leaf = "1 0 0 rg 0 0 9 9 re f"
    texts.append(f"{form} /Length {len(leaf)} >>\nstream\n{leaf}\nendstream")
    return _file([text.encode() for text in texts], "")


def _file(objects: Sequence[bytes], trailer: str) -> bytes:
    stream, offsets = io.BytesIO(), []
    stream.write(b"%PDF-1.4\n")
    for number, content in enumerate(objects, 1):
        offsets.append(stream.tell())
        stream.write(f"{number} 0 obj\n".encode() + content + b"\nendobj\n")
    start = stream.tell()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    stream.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode())
    stream.write(f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode())
    return stream.getvalue()
