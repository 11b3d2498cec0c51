"""Connections go to public addresses only, and to the very address that was checked."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from perception_encoder.errors import MediaNotFoundError, UrlRefusedError
from perception_encoder.inference import fetch as module
from perception_encoder.inference.fetch import FetchLimits, fetch, is_public
from tests.inference.test_fetch import LOCAL, body, redirect
from tests.web import serving

pytestmark = pytest.mark.security

INSIDE = """
    127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 240.0.0.1 255.255.255.255
    ::1 :: fe80::1%eth0 fc00::1 ff02::1 ::ffff:127.0.0.1 64:ff9b::a00:1 2002:7f00:1:: 2001:db8::1
"""


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", INSIDE.split())
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_this_machine_is_refused_unless_allowed() -> None:
    with serving(body(b"x")) as url:
        with pytest.raises(UrlRefusedError, match=r"leads to 127\.0\.0\.1, which is not a public address"):
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
        with pytest.raises(MediaNotFoundError, match=r"cannot be fetched: .*certificate verify failed"):
            fetch(f"{url}/a.jpg", LOCAL)
        trusting = ssl.create_default_context(cafile=str(certificate))
        monkeypatch.setattr(module.ssl, "create_default_context", lambda: trusting)
        assert fetch(f"{url}/a.jpg", LOCAL) == b"secret"
