"""Members of tars: no damage makes a tar shorter without a word, and nothing but a DataError is raised."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import read_members
from perception_encoder.formats.tars import read_entry, walk_tar
from tests.data.tars import write_tar

pytestmark = pytest.mark.security

MEMBERS = {"a.jpg": b"first" * 200, "s/b.json": b"{}", "c.png": b"", "d.jpg": b"last"}


def read(content: bytes) -> tuple[list[tuple[str, bytes]], str]:
    """The members of a tar and, if it is damaged, what is said of that."""
    members: list[tuple[str, bytes]] = []
    stream = io.BytesIO(content)
    try:
        members.extend((entry.name, read_entry(stream, entry)) for entry in walk_tar(stream, len(content)))
    except DataError as error:
        return members, str(error)
    return members, ""


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    return write_tar(tmp_path / "x.tar", MEMBERS).read_bytes()


@pytest.fixture
def headers(tmp_path: Path, whole: bytes) -> list[int]:
    with tarfile.open(tmp_path / "x.tar") as tar:
        return [member.offset for member in tar]


def test_members_in_order(whole: bytes) -> None:
    assert read(whole) == (list(MEMBERS.items()), "")


@pytest.mark.parametrize("kind", [b"?", tarfile.AREGTYPE, tarfile.CONTTYPE])
def test_a_member_of_an_unknown_type_is_a_file(whole: bytes, headers: list[int], kind: bytes) -> None:
    assert read(with_type(whole, headers[0], kind)) == (list(MEMBERS.items()), "")


@pytest.mark.parametrize(("kind", "what"), [(tarfile.SYMTYPE, "a link to b.jpg"), (tarfile.FIFOTYPE, "a device")])
def test_links_and_devices_are_reported(whole: bytes, headers: list[int], kind: bytes, what: str) -> None:
    content = with_type(whole, headers[2], kind, b"b.jpg" if kind == tarfile.SYMTYPE else b"")  # which is empty
    entries = {entry.name: entry.problem for entry in walk_tar(io.BytesIO(content), len(content))}
    problem = f"is {what}; recreate the tar with --dereference"
    assert entries == {**dict.fromkeys(MEMBERS), "c.png": problem}


def with_type(whole: bytes, at: int, kind: bytes, link: bytes = b"") -> bytes:
    """The tar with another type in a member's header."""
    header = bytearray(whole[at : at + 512])
    header[156:157], header[157 : 157 + len(link)] = kind, link
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    return whole[:at] + header + whole[at + 512 :]


def test_every_bit_of_every_header_counts(whole: bytes, headers: list[int]) -> None:
    for at in headers:
        for byte in range(at, at + 512):
            for bit in range(8):
                damaged = bytearray(whole)
                damaged[byte] ^= 1 << bit
                members, problem = read(bytes(damaged))
                assert members == list(MEMBERS.items()) or f"damaged at byte {at:,}: " in problem
                assert members == list(MEMBERS.items())[: len(members)]


def test_a_tar_that_is_cut_anywhere_says_so(whole: bytes) -> None:
    end = len(whole) - len(whole) % 512
    seen = set()
    for at in range(0, end, 512):
        members, problem = read(whole[:at])
        assert members == list(MEMBERS.items())[: len(members)]
        assert problem or (members == list(MEMBERS.items()) and whole[at - 512 : at] == bytes(512)), at
        seen.add(len(members))
    assert seen == {0, 1, 2, 3, 4}


def test_a_member_that_is_cut_has_fewer_bytes_than_its_header_says(whole: bytes, headers: list[int]) -> None:
    """Also by less than the padding behind it, and with the number of bytes that are there."""
    for last in range(1, 5):
        end = headers[-1] + 512 + 4  # of the last member, b"last"
        members, problem = read(whole[: end - last])
        assert members == list(MEMBERS.items())[:3]
        assert problem.startswith(f"damaged at byte {headers[-1]:,}: a member of 4 bytes, but {4 - last} follow; ")
    members, problem = read(whole[: headers[1] - 600])
    assert members == [] and "a member of 1,000 bytes, but 424 follow; " in problem


def test_a_tar_behind_a_tar_or_zeros_in_its_midst_are_no_end(whole: bytes, headers: list[int]) -> None:
    members, problem = read(whole + whole)
    assert members == list(MEMBERS.items()) and "content after the end of the archive" in problem
    damaged = bytearray(whole)
    damaged[headers[2] : headers[2] + 512] = bytes(512)
    members, problem = read(bytes(damaged))
    assert members == list(MEMBERS.items())[:2] and f"damaged at byte {headers[3]:,}" in problem
    assert read(whole + bytes(100_000)) == (list(MEMBERS.items()), "")


def pax(info: tarfile.TarInfo) -> None:
    info.pax_headers = {"comment": "x" * 600, "mtime": "1.5"}


def long_name(info: tarfile.TarInfo) -> None:
    info.name = "deep/" * 40 + info.name


def sparse(info: tarfile.TarInfo) -> None:
    info.pax_headers = {"GNU.sparse.map": "0,1,5,9", "GNU.sparse.size": "4096"}


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("change", [pax, long_name, sparse])
def test_noise_raises_nothing_else(format: int, change: Callable[[tarfile.TarInfo], None]) -> None:
    chance, buffer = random.Random(2504), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, content in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            tar.addfile(info, io.BytesIO(content))
    damaged, problems = buffer.getvalue(), 0
    for _ in range(400):
        noisy = bytearray(damaged)
        for _ in range(chance.choice((1, 2, 40))):
            at = chance.randrange(len(noisy))
            noisy[at : at + chance.choice((1, 8))] = chance.choice((b"\xff", b"\x80" + bytes(7), b"9", b"\0"))
        at = chance.randrange(0, len(noisy) - 512, 512)
        if chance.random() < 0.5:  # a sound checksum over noise
            noisy[at + 148 : at + 156] = b"%06o\0 " % tarfile.calc_chksums(bytes(noisy[at : at + 512]))[0]
        problems += bool(read(bytes(noisy))[1])
    assert problems > 100


@pytest.mark.parametrize("size", [-512, 1 << 80])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_sizes_that_no_file_has(whole: bytes, headers: list[int], size: int, kind: bytes) -> None:
    header = bytearray(whole[headers[1] : headers[1] + 512])
    header[124:136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)  # base 256
    header[156:157] = kind
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    members, problem = read(whole[: headers[1]] + header + whole[headers[1] + 512 :])
    assert members == list(MEMBERS.items())[:1] and f"damaged at byte {headers[1]:,}: " in problem


def test_a_thousand_headers_for_one_member_end() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 0
    members, problem = read(info.tobuf(tarfile.GNU_FORMAT) * 5000)
    assert members == [] and problem


def test_files_are_read_until_the_damage(tmp_path: Path, whole: bytes, headers: list[int]) -> None:
    path = tmp_path / "cut.tar"
    path.write_bytes(whole[: headers[3]])
    members = read_members(path, ("jpg", "png"))
    assert [next(members), next(members)] == [("a.jpg", MEMBERS["a.jpg"]), ("c.png", b"")]
    with pytest.raises(DataError, match=rf"cut\.tar: not a readable tar file \(cut off at byte {headers[3]:,}"):
        next(members)
