"""Certificates for the tests of TLS: trustme, which is typed in part only, behind a typed face."""

import os
import shutil
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from terzetto.server import ServerStartError, Tls, find_server, open_embedded

__all__ = ["Authority", "Tls", "binary_with_tls", "server_binary", "tls_here"]

BINARY = "TERZETTO_SERVER_BINARY"


class Authority:
    """An authority that issues certificates."""

    def __init__(self) -> None:
        self._ca: Any = trustme.CA()

    def server_context(self, name: str, *, wants_certificates: bool = False) -> ssl.SSLContext:
        """Return the context of a server called `name`."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._ca.issue_cert(name).configure_cert(context)
        if wants_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a context that trusts this authority."""
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        return context

    def files(self, directory: Path, name: str, *, wants_certificates: bool = False) -> Tls:
        """Write what a server called `name` needs to `directory`."""
        issued = self._ca.issue_cert(name)
        issued.private_key_pem.write_to_path(str(directory / "key.pem"))
        issued.cert_chain_pems[0].write_to_path(str(directory / "certificate.pem"))
        return Tls(
            certificate=str(directory / "certificate.pem"),
            key=str(directory / "key.pem"),
            authority=self.write(str(directory / "authority.pem")),
            wants_certificates=wants_certificates,
        )

    def write(self, path: str) -> str:
        """Write the authority's own certificate to a file; return its name."""
        self._ca.cert_pem.write_to_path(path)
        return path

    def write_certificate(self, name: str, path: str) -> str:
        """Write a certificate for `name` with its key to a file; return the file's name."""
        self._ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(path)
        return path


@asynccontextmanager
async def tls_here(tls: Tls) -> AsyncGenerator[None]:
    """Let a server program with TLS be found for the time of a block; skip if there is none."""
    with server_binary(await binary_with_tls(tls)):
        yield


@contextmanager
def server_binary(path: str) -> Generator[None]:
    """Let `path` be the server program for the time of a block."""
    before = os.environ.get(BINARY)
    os.environ[BINARY] = path
    try:
        yield
    finally:
        del os.environ[BINARY]
        if before is not None:
            os.environ[BINARY] = before


async def binary_with_tls(tls: Tls) -> str:
    """Return a server program that can use `tls`; skip if there is none."""
    found = (str(find_server()), shutil.which("valkey-server"), shutil.which("redis-server"))
    for path in dict.fromkeys(filter(None, found)):
        with server_binary(path):
            try:
                async with open_embedded(port=0, tls=tls):
                    return path
            except ServerStartError as error:
                if "tls" not in str(error).lower():
                    raise
    pytest.skip("no server program with TLS is installed here")
