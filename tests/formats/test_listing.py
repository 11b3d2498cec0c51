"""Names to items: every kind of input, in one order, lazily, with problems reported and not raised."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.errors import InputError, MediaNotFoundError
from perception_encoder.formats import listing
from perception_encoder.formats.listing import Item, list_items
from perception_encoder.formats.shards import write_members
from perception_encoder.preprocess.image import image_file
from perception_encoder.preprocess.source import unescape_name
from tests.clips import clip
from tests.data.tars import write_tar

posix_names = pytest.mark.skipif(os.name == "nt", reason="POSIX file names and links")


def image_bytes(colour: str = "teal", format: str = "JPEG") -> bytes:
    return image_file(Image.new("RGB", (16, 16), colour), format)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(files: Iterable[str], data: bytes | None = None) -> None:
    for name in files:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(image_bytes() if data is None else data)


def ids(*paths: str | Path) -> list[str]:
    return [item.id for item in list_items(paths)]


def reasons(*paths: str | Path) -> list[str]:
    """What opening each item comes to: its kind, or the error."""
    found = []
    for item in list_items(paths):
        try:
            found.append(item.media().kind)
        except InputError as error:
            found.append(str(error))
    return found


def test_files_in_the_order_given(here: Path) -> None:
    write(["b.jpg", "a.dat"])
    items = list(list_items(["b.jpg", Path("a.dat"), "b.jpg"]))
    assert [item.id for item in items] == ["b.jpg", "a.dat", "b.jpg"]
    assert items[0] == Item("b.jpg", "b.jpg", Path("b.jpg"))
    assert items[1].open() == Path("a.dat") and items[1].media().kind == "image"


def test_a_directory_is_sorted_deep_and_without_hidden_files(here: Path) -> None:
    write(["d/b.JPG", "d/a/z.png", "d/a/1.webp", "d/a.png", "d/c/clip.mp4", "d/.hidden.jpg", "d/.cache/x.jpg"])
    write(["d/notes.txt", "d/b.json", "d/labels.csv", "d/script.ts"], b"words")
    expected = ["a/1.webp", "a/z.png", "a.png", "b.JPG", "c/clip.mp4"]
    assert ids("d") == [f"d/{name}" for name in expected]
    assert ids(Path("d")) == ids("d") == ids("d/")
    assert ids("d/c", "d/a") == ["d/c/clip.mp4", "d/a/1.webp", "d/a/z.png"]


@posix_names
def test_links_in_a_circle_come_to_an_end(here: Path) -> None:
    write(["d/a.jpg", "d/e/b.jpg", "other/c.jpg"])
    Path("d/e/up").symlink_to(here / "d")
    Path("d/self.jpg").symlink_to(here / "d" / "self.jpg")
    Path("d/link").symlink_to(here / "other")
    Path("d/link2").symlink_to(here / "other")
    Path("d/gone.jpg").symlink_to("nowhere")
    assert ids("d") == ["d/a.jpg", "d/e/b.jpg", "d/gone.jpg", "d/self.jpg", "d/link/c.jpg"]
    found = reasons("d")
    assert found[2] == "d/gone.jpg: no such file"
    assert found[3].startswith("d/self.jpg: cannot be read: Too many levels")


@posix_names
def test_a_directory_is_listed_under_its_own_path_whatever_links_to_it(here: Path) -> None:
    write(["p/misc/a.jpg", "p/misc/deep/b.jpg", "other/c.jpg"])
    Path("p/links").mkdir()
    Path("p/links/dir").symlink_to(here / "p" / "misc")
    Path("p/links/deep").symlink_to("../misc/deep")
    Path("p/out").symlink_to(here / "other")
    assert ids("p") == ["p/misc/a.jpg", "p/misc/deep/b.jpg", "p/out/c.jpg"]
    assert [item.id for item in list_items(["p"], excluded=["misc/"])] == ["p/out/c.jpg"]
    assert ids("p/links") == ["p/links/deep/b.jpg", "p/links/dir/a.jpg"], "only links lead there"


@pytest.mark.parametrize("name", ["@eaDir", "@__thumb", "__MACOSX"])
def test_directories_of_thumbnails_are_listed_only_by_name(here: Path, name: str) -> None:
    write([f"nas/{name}/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "nas/a.jpg"])
    write_tar(here / "nas/t.tar", {f"{name}/a.jpg": image_bytes()})
    assert ids("nas") == ids("nas/**/*.jpg") == ["nas/a.jpg"]
    assert ids(f"nas/{name}") == [f"nas/{name}/a.jpg/SYNOPHOTO_THUMB_XL.jpg"]


@posix_names
def test_a_pipe_is_not_waited_for(here: Path) -> None:
    Path("d").mkdir()
    for name in ("pipe", "pipe.tar", "pipe.jpg"):
        os.mkfifo(f"d/{name}")
    assert reasons("d") == ["d/pipe.jpg: is not a regular file"]
    assert reasons("d/pipe.tar") == ["d/pipe.tar: is not a regular file"]


def test_a_directory_that_may_not_be_listed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(["d/a.jpg", "d/secret/b.jpg", "d/z.jpg"])
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    assert reasons("d") == ["image", "d/secret: cannot be listed: Permission denied", "image"]


@posix_names
def test_globs(here: Path) -> None:
    write(["p/b.jpg", "p/a.jpg", "p/c.png", "p/q/d.jpg", "p/.e.jpg", "p/.hidden/c.jpg"])
    for name in ("p/up", "p/q/up"):
        Path(name).symlink_to(here / "p")  # through p/up/q/up/… there are 2^40 paths
    assert ids("p/*.jpg") == ["p/a.jpg", "p/b.jpg"]
    assert ids("p/**/*.jpg") == ["p/a.jpg", "p/b.jpg", "p/q/d.jpg"]
    assert ids("p/**") == ["p/a.jpg", "p/b.jpg", "p/c.png", "p/q/d.jpg"]
    assert ids("p/[ac].*") == ["p/a.jpg", "p/c.png"]
    assert ids("p/q*")[0] == "p/q/d.jpg"
    assert ids(f"{here}/p/**/q/*.jpg") == [f"{here}/p/q/d.jpg"] and ids("**/d.jpg") == ["p/q/d.jpg"]
    with pytest.raises(MediaNotFoundError, match="matches no file"):
        listing.check_paths(["p/**/*.gif"])
    (item,) = list_items(["p/*.gif"])
    with pytest.raises(MediaNotFoundError, match=r"p/\*\.gif: matches no file"):
        item.open()


def test_a_name_that_looks_like_a_glob(here: Path) -> None:
    write(["cat [1].jpg"])
    write(["clip [1].mp4"], clip(50))
    assert ids("cat [1].jpg", "clip [1].mp4@1s") == ["cat [1].jpg", "clip [1].mp4@1s"]


@posix_names
def test_names_that_are_not_utf8_or_hold_a_new_line(here: Path) -> None:
    names = [b"caf\xe9.jpg", b"two\nlines.jpg", "日本.jpg".encode()]
    Path("d").mkdir()
    try:
        for name in names:
            Path(os.fsdecode(b"d/" + name)).write_bytes(image_bytes())
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    items = list(list_items(["d"]))
    assert [item.id for item in items] == [r"d/caf\xe9.jpg", r"d/two\x0alines.jpg", "d/日本.jpg"]
    for item, name in zip(items, names, strict=True):
        assert os.fsencode(unescape_name(item.path)) == b"d/" + name
        assert item.media().kind == "image"
        item.id.encode("utf-8")


def test_a_tar_is_read_in_place(here: Path) -> None:
    long = "x" * 150 + ".png"
    members = {
        "b.jpg": image_bytes("red"),
        "b.json": b"{}",
        "s/a.png": image_bytes("lime", "PNG"),
        "._b.jpg": b"",
        "c.mp4": clip(3),
    }
    write_tar(here / "t.tar", {**members, long: image_bytes()})
    items = list(list_items(["t.tar"]))
    assert [item.id for item in items] == ["t.tar/b.jpg", "t.tar/s/a.png", "t.tar/c.mp4", f"t.tar/{long}"]
    assert items[0].open() == members["b.jpg"] and items[2].open() == members["c.mp4"]
    assert [item.media().kind for item in items] == ["image", "image", "video", "image"]
    assert sorted(path.name for path in here.iterdir()) == ["t.tar"]


def test_tars_in_a_directory(here: Path) -> None:
    Path("d").mkdir()
    write_tar(here / "d/train.tar", {"1.jpg": image_bytes()})
    write(["d/a.jpg", "d/z.jpg"])
    assert ids("d") == ["d/a.jpg", "d/train.tar/1.jpg", "d/z.jpg"]


@pytest.mark.security
def test_links_in_a_tar_are_reported_and_lead_nowhere(here: Path) -> None:
    with tarfile.open("t.tar", "w") as tar:
        for name, kind in (("folder.jpg", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("p.jpg", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert reasons("t.tar") == [
        "t.tar/l.jpg: is a link to /etc/passwd; recreate the tar with --dereference",
        "t.tar/p.jpg: is a device; recreate the tar with --dereference",
    ]


def test_a_damaged_tar_gives_what_it_holds(here: Path) -> None:
    write_tar(here / "t.tar", {f"{number}.jpg": image_bytes() for number in range(4)})
    with tarfile.open("t.tar") as tar:
        third = tar.getmember("2.jpg")
    Path("cut.tar").write_bytes(Path("t.tar").read_bytes()[: third.offset_data + third.size // 2])
    found = reasons("cut.tar")
    assert found[:2] == ["image", "image"] and len(found) == 3
    assert found[2].startswith(f"cut.tar: cannot be read as a tar: damaged at byte {third.offset:,}: ")
    assert found[2].endswith("it and what comes after it are lost: 2.jpg")
    Path("no.tar").write_bytes(b"no tar at all" * 100)
    assert reasons("no.tar")[0].startswith("no.tar: cannot be read as a tar: ")
    Path("empty.tar").touch()
    assert reasons("empty.tar") == ["empty.tar: cannot be read as a tar: empty file"]


def test_a_member_that_claims_a_terabyte_is_reported_and_the_others_are_used(here: Path) -> None:
    write_tar(here / "t.tar", {"1.jpg": image_bytes(), "2.jpg": b""})
    whole = Path("t.tar").read_bytes()
    huge = tarfile.TarInfo("2.jpg")
    huge.size = 1 << 40  # as tarfile writes it: in base 256
    header = huge.tobuf(tarfile.GNU_FORMAT)
    with tarfile.open("t.tar") as tar:
        at = tar.getmember("2.jpg").offset
    write(["d/a.jpg", "d/z.jpg"])
    Path("d/t.tar").write_bytes(whole[:at] + header + whole[at + 512 :])
    assert reasons("d") == [
        "image",
        "image",
        f"d/t.tar: cannot be read as a tar: damaged at byte {at:,}: a member of 1,099,511,627,776 bytes, "
        f"but {len(whole) - at - 512:,} follow; it and what comes after it are lost: 2.jpg",
        "image",
    ]
    with open("d/t.tar", "r+b") as file:  # a file with a hole, so that it is as long as it claims
        file.truncate(at + 512 + (1 << 40) + 1024)
    (*_, member, _) = reasons("d")
    assert member.startswith("d/t.tar/2.jpg: has 1,099,511,627,776 bytes; at most 1,073,741,824 are read from a tar")


def test_a_sparse_member_is_reported(here: Path) -> None:
    with tarfile.open("t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("1.jpg")
        info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)}
        tar.addfile(info)
    assert reasons("t.tar") == ["t.tar/1.jpg: is stored sparse; recreate the tar without --sparse"]


# ---- items


def test_listing_is_lazy_and_flat(here: Path) -> None:
    write_tar(here / "t.tar", {f"{number:05d}.jpg": b"" for number in range(2000)})
    with open("t.csv", "w", encoding="utf-8") as file:
        file.write("path\n")
        file.writelines(f"{number}.jpg\n" for number in range(10_000))
    assert next(list_items(["t.tar", "t.csv"])).id == "t.tar/00000.jpg"
    code = (
        "import sys, tracemalloc; from perception_encoder.formats.listing import list_items\n"
        "for path in sys.argv[1:]:\n"
        "    items = list_items([path]); next(items); tracemalloc.start()\n"
        "    print(sum(1 for _ in items), tracemalloc.get_traced_memory()[1])\n"
        "    tracemalloc.stop()"
    )
    # in a process of its own: what Python adds to its table of names depends on how many it holds already
    command = [sys.executable, "-c", code, "t.tar", "t.csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    for (rest, peak), (count, limit) in zip(found, [(2000, 500_000), (10_000, 5_000_000)], strict=True):
        assert rest == count - 1 and peak < limit, found


def test_a_transport_stream_is_a_video_and_typescript_is_not(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    files = {
        "clip.ts": clip(10, "mpegts", "mpeg2video"),
        "main.ts": b"export const answer = 42;\n",
        "G.TS": b"Get = 1\n" * 99,
        "e.ts": b"",
    }
    for name, content in files.items():
        (tmp_path / "a" / name).write_bytes(content)
    left_out: Counter[str] = Counter()
    (item,) = list_items([tmp_path / "a"], left_out)
    assert Path(item.name).name == "clip.ts" and item.media().kind == "video" and left_out == {".ts": 3}
    write_members(tmp_path / "a.tar", list(files.items()))
    (member,) = list_items([tmp_path / "a.tar"])
    assert member.name.endswith("a.tar/clip.ts") and member.media().kind == "video"
