"""Identify images and videos by suffix, and MP4-like files by brand."""

from __future__ import annotations

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif", ".heic", ".heif", ".hif",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".tif", ".tiff", ".bmp", ".dib", ".ico", ".icns", ".ppm", ".pgm",
    ".pbm", ".pnm", ".pfm", ".psd",
})
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".m2v", ".vob", ".flv", ".f4v", ".ogv", ".wmv", ".asf", ".mxf", ".ivf", ".y4m", ".h264", ".h265", ".hevc",
})
# fmt: on
MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
SHARD_IMAGES = ("jpg", "jpeg", "png", "webp")
"""Extensions of images in shards that any WebDataset reader decodes; the first one in a sample counts."""
SHARD_VIDEOS = ("mp4", "webm", "mov", "mkv", "avi")
AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})


def file_brands(head: bytes) -> set[bytes] | None:
    """Return the brands in the first bytes of an MP4-like file (video, AVIF, HEIC); None for other files."""
    if head[4:8] != b"ftyp":
        return None
    size = min(len(head), int.from_bytes(head[:4], "big"))
    return {head[start : start + 4] for start in range(8, size, 4)}


def is_heif(head: bytes) -> bool:
    """Return whether a file's first bytes are HEIC's or HEIF's, but not AVIF's, which shares some brands."""
    brands = file_brands(head) or set()
    return bool(brands & HEIF_BRANDS) and not brands & AVIF_BRANDS


# fmt: off
_RAW = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw", ".orf", ".pef",
    ".raf", ".raw", ".rw2", ".sr2", ".srf", ".srw", ".x3f",
})
# fmt: on


def unsupported_type(suffix: str) -> str:
    """Return the kind of an unsupported file by its suffix: RAW, SVG or other."""
    suffix = suffix.lower()
    return "RAW" if suffix in _RAW else "SVG" if suffix in (".svg", ".svgz") else "other"
