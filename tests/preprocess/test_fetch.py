"""Downloads: http(s) only, from public addresses only, within limits, and always a typed error."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from perception_encoder.errors import InputError, MediaNotFoundError, MediaTooLargeError, UrlRefusedError
from perception_encoder.preprocess import connection as module
from perception_encoder.preprocess.connection import is_public
from perception_encoder.preprocess.fetch import FetchLimits, fetch, is_url
from tests.web import Answer, serving

pytestmark = pytest.mark.security

LOCAL = FetchLimits(allow_private=True, seconds=20)


def body(data: bytes, status: int = 200, length: int | None = None, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data) if length is None else length), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def redirect(location: str, status: int = 302) -> Answer:
    return body(b"", status, Location=location)


def test_a_download() -> None:
    with serving(body(b"x" * 200_000)) as url:
        assert fetch(f"{url}/a.jpg", LOCAL) == b"x" * 200_000


def test_what_is_asked_for() -> None:
    asked = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append((handler.path, handler.headers["Host"]))
        body(b"x")(handler)

    with serving(answer) as url:
        fetch(f"{url}/naïve cat%20.jpg?a=b&c=ü#part", LOCAL)
        fetch(url, LOCAL)
    host = url.removeprefix("http://")
    assert asked == [("/na%C3%AFve%20cat%20.jpg?a=b&c=%C3%BC", host), ("/", host)]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(status: int) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        (body(b"there") if handler.path == "/b" else redirect("/b", status))(handler)

    with serving(answer) as url:
        assert fetch(f"{url}/a", LOCAL) == b"there"


def test_redirects_come_to_an_end() -> None:
    with serving(redirect("/again")) as url, pytest.raises(UrlRefusedError, match="redirects more than 5 times"):
        fetch(url, LOCAL)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/a.jpg", "ftp: is unsupported; use http: or https:"),
        ("file:///etc/passwd", "file: is unsupported"),
        ("http:///a.jpg", "names no host"),
        ("http://[::1/a.jpg", "is malformed"),
        ("http://example.com:99999/a.jpg", "is malformed"),
    ],
)
def test_what_is_no_web_address(url: str, reason: str) -> None:
    with pytest.raises(UrlRefusedError) as caught:
        fetch(url, LOCAL)
    assert str(caught.value).startswith(f"{url}: {reason}")


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(UrlRefusedError) as caught:
        fetch("http://me:secret@example.com/a.jpg")
    assert str(caught.value) == "http://…@example.com/a.jpg: contains a user name or a password"


def test_too_many_bytes_declared_or_not() -> None:
    limits = FetchLimits(allow_private=True, max_bytes=1000)

    def undeclared(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x" * 1000)

    with (
        serving(body(b"x" * 1001)) as url,
        pytest.raises(MediaTooLargeError, match="has 1,001 bytes; the limit is 1,000"),
    ):
        fetch(url, limits)
    with serving(undeclared) as url, pytest.raises(MediaTooLargeError, match="has more than 1,000 bytes"):
        fetch(url, limits)
    with serving(body(b"x" * 1000)) as url:
        assert len(fetch(url, limits)) == 1000


def test_a_shared_deadline_is_reported_as_the_whole_limit() -> None:
    """Before: "took more than 3.98536 s, the limit", what was left of a request's 4 s when its download began."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg"
        with pytest.raises(MediaTooLargeError, match="took more than 20 s, the limit"):
            fetch(url, LOCAL, deadline=time.monotonic() + 0.1)


@pytest.mark.parametrize("where", ["before the answer", "in the headers", "in the body", "in a body without length"])
def test_a_server_that_dawdles(where: str) -> None:
    stop = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = {
            "before the answer": b"",
            "in the headers": b"HTTP/1.1 200 OK\r\nX-Slow: ",
            "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
            "in a body without length": b"HTTP/1.1 200 OK\r\n\r\n",
        }
        handler.wfile.write(start[where])
        while not stop.wait(0.05):  # each byte comes well within a socket's own timeout
            if where != "before the answer":
                handler.wfile.write(b"x")

    begun = time.monotonic()
    with serving(answer) as url:
        try:
            with pytest.raises(MediaTooLargeError, match=r"took more than 0\.4 s, the limit"):
                fetch(url, FetchLimits(allow_private=True, seconds=0.4))
        finally:
            stop.set()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (body(b"gone", 404), "the server answered 404 Not Found"),
        (body(b"", 500), "the server answered 500"),
        (body(b"", 302), "the server answered 302"),
        (body(b"short", length=500), "cannot be fetched: the answer broke off after 5 of 500 bytes"),
        (lambda handler: handler.wfile.write(b"no such protocol\r\n\r\n"), "cannot be fetched: "),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "cannot be fetched: "),
        (redirect("ftp://example.com/a.jpg"), "ftp: is unsupported"),
    ],
)
def test_a_server_that_fails(answer: Answer, reason: str) -> None:
    with serving(answer) as url, pytest.raises(InputError) as caught:
        fetch(f"{url}/a.jpg", LOCAL)
    assert str(caught.value).startswith(f"{url}/a.jpg: {reason}")


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(MediaNotFoundError, match=r"cannot be fetched: .*refused"):
        fetch(f"http://127.0.0.1:{port}/a.jpg", LOCAL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.com/a.jpg", True),
        ("s3://bucket/a.jpg", True),
        ("url https://example.com", False),
        ("https://example.com is a site", False),
        ("C:\\photos\\a.jpg", False),
        ("a dog", False),
    ],
)
def test_what_is_a_url(text: str, expected: bool) -> None:
    assert is_url(text) == expected


INSIDE = """
    127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 240.0.0.1 255.255.255.255
    ::1 :: fe80::1%eth0 fc00::1 ff02::1 ::ffff:127.0.0.1 64:ff9b::a00:1 2002:7f00:1:: 2001:db8::1
    64:ff9b:1::808:808 fec0::1 ::7f00:1 ::808:808 ::ffff:0:7f00:1 2606:4700::5efe:127.0.0.1 2606:4700::200:5efe:a00:1
    5f00::1 4000::1
"""
PUBLIC = "93.184.216.34 8.8.8.8 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808 2606:4700::5efe:8.8.8.8"


def test_public_addresses_are_told_from_others() -> None:
    assert [address for address in PUBLIC.split() if not is_public(address)] == []
    assert [address for address in INSIDE.split() if is_public(address)] == []


def test_this_machine_is_refused_unless_allowed() -> None:
    with serving(body(b"x")) as url:
        with pytest.raises(UrlRefusedError, match=r"leads to 127\.0\.0\.1"):
            fetch(f"{url}/a.jpg")
        for host in ("localhost", "127.1", "2130706433", "0x7f000001"):
            with pytest.raises((UrlRefusedError, MediaNotFoundError)):
                fetch(url.replace("127.0.0.1", host))


def resolving(monkeypatch: pytest.MonkeyPatch, answers: dict[str, list[str]]) -> list[str]:
    """Answer look-ups of these names from the lists, each answer once; returns the names looked up."""
    looked_up = []

    def look_up(host: str, port: int, type: int = 0) -> list[tuple]:
        looked_up.append(host)
        addresses = answers[host]
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (word, port)) for word in address.split()]

    monkeypatch.setattr(module.socket, "getaddrinfo", look_up)
    return looked_up


def test_a_name_that_leads_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, {"intranet.example": ["192.168.0.9"], "both.example": ["8.8.8.8 10.0.0.1"]})
    for host, address in [("intranet.example", "192.168.0.9"), ("both.example", "10.0.0.1")]:
        with pytest.raises(UrlRefusedError, match=f"leads to {address}"):
            fetch(f"http://{host}/a.jpg")


def test_a_redirect_that_leads_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(redirect("http://inside.example/secret")) as url:
        port = url.rpartition(":")[2]
        resolving(monkeypatch, {"outside.example": ["127.0.0.1"], "inside.example": ["169.254.169.254"]})
        monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1")
        with pytest.raises(UrlRefusedError, match=r"leads to 169\.254\.169\.254"):
            fetch(f"http://outside.example:{port}/a.jpg", FetchLimits(seconds=20))


def test_the_address_checked_is_the_address_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers differently the second time (DNS rebinding) is never asked a second time."""
    with serving(body(b"checked")) as url:
        looked_up = resolving(monkeypatch, {"rebinding.example": ["127.0.0.1", "10.0.0.1"]})
        monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1")
        port = url.rpartition(":")[2]
        assert fetch(f"http://rebinding.example:{port}/a.jpg", FetchLimits(seconds=20)) == b"checked"
        assert looked_up == ["rebinding.example"]


def test_a_host_without_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(module.socket, "getaddrinfo", fail)
    with pytest.raises(MediaNotFoundError, match=r"nowhere\.example has no address"):
        fetch("http://nowhere.example/a.jpg")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https_checks_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        [*command, *subject, "-keyout", key, "-out", certificate, "-days", "2"], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(body(b"secret"), context) as url:
        with pytest.raises(MediaNotFoundError, match="certificate verify failed"):
            fetch(f"{url}/a.jpg", LOCAL)
        trusting = ssl.create_default_context(cafile=str(certificate))
        monkeypatch.setattr(module.ssl, "create_default_context", lambda: trusting)
        assert fetch(f"{url}/a.jpg", LOCAL) == b"secret"
