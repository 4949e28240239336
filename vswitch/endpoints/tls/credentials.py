"""The files of `tls=`, as the contexts of connections: both sides show a certificate, and trust one CA and no other.

They are looked at again for each connection, so that renewed ones are used as soon as they are there. If those cannot
be used, as when they are just being written, the ones before stay.
"""

import os
import ssl
from contextlib import suppress
from typing import NoReturn

import trio

from vswitch.endpoints.endpoint import log
from vswitch.endpoints.tls.files import TlsFiles
from vswitch.errors import RefusedError, VSwitchError

FILE_MAX = 1 << 20
EXPIRED, NOT_YET_VALID = 10, 9  # OpenSSL include/openssl/x509_vfy.h
FLIGHTS = 3  # messages that one side has after another until a handshake is over (RFC 8446, 2)

Stamp = tuple[tuple[int, int, int], ...]


class Credentials:
    """Those of an endpoint called `who`, which connects or listens."""

    def __init__(self, files: TlsFiles, who: str, *, connects: bool) -> None:
        self._files = files
        self._who = who
        self._connects = connects
        self._stamp: Stamp | None = None  # of the files when they were read last
        self._context: ssl.SSLContext | None = None
        self._threads = trio.CapacityLimiter(1)  # a file may take long

    async def context(self) -> ssl.SSLContext:
        """For the next connection. Raises RefusedError if there was never one."""
        return await trio.to_thread.run_sync(self._current, abandon_on_cancel=True, limiter=self._threads)

    def _current(self) -> ssl.SSLContext:
        stamp = _stamp(self._files)
        if self._context is None or stamp != self._stamp:
            try:
                context = read(self._files, connects=self._connects)
            except VSwitchError as error:
                if self._context is None:
                    raise
                log.warning("%s: %s; what was read before stays in use", self._who, error)
            else:
                self._context = context
                if problem := _problem(self._files):
                    log.warning("%s: %s: %s; others will refuse it", self._who, self._files.certificate, problem)
            self._stamp = stamp
        return self._context


def read(files: TlsFiles, *, connects: bool) -> ssl.SSLContext:
    """A context of what the files say. Raises RefusedError."""
    _check(files.certificate, b"-----BEGIN CERTIFICATE-----", "certificate")
    _check(files.key, b"PRIVATE KEY-----", "key")
    _check(files.ca, b"-----BEGIN CERTIFICATE-----", "CA's certificate")
    context = _context(ssl.PROTOCOL_TLS_CLIENT if connects else ssl.PROTOCOL_TLS_SERVER)
    context.check_hostname = connects
    context.hostname_checks_common_name = False  # names are subjectAltNames (RFC 9525, 2)
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load_own(context, files)
    try:
        context.load_verify_locations(files.ca)
    except (ssl.SSLError, OSError):
        raise RefusedError(f"{files.ca}: the CA's certificate cannot be read; it is to be PEM") from None
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check(path: str, mark: bytes, what: str) -> None:
    """Whether a file is there, and has what it is to have. Raises RefusedError."""
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_MAX)
    except OSError as error:
        hint = f"; let user {os.geteuid()} read it" if isinstance(error, PermissionError) else ""
        raise RefusedError(f"{path}: {error.strerror}{hint}; tls= names a certificate, its key and a CA") from None
    if mark not in content:
        raise RefusedError(f"{path}: has no {what} in PEM form; tls= names a certificate, its key and a CA")


def _load_own(context: ssl.SSLContext, files: TlsFiles) -> None:
    def no_passphrase() -> NoReturn:
        raise RefusedError(f"{files.key}: has a passphrase, which nobody can be asked for; use a key without")

    try:
        context.load_cert_chain(files.certificate, files.key, no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise RefusedError(f"{files.key}: is not the key of {files.certificate}") from None
        said = (error.reason or "damaged").replace("_", " ").lower()
        raise RefusedError(f"{files.certificate}, {files.key}: cannot be used: {said}") from None
    except OSError as error:
        raise RefusedError(f"{files.certificate}, {files.key}: {error.strerror}") from None


def _problem(files: TlsFiles) -> str:
    """What is wrong with the time of our own certificate, if anything: who trusts nothing but it is shown it."""
    server, client = _context(ssl.PROTOCOL_TLS_SERVER), _context(ssl.PROTOCOL_TLS_CLIENT)
    server.verify_mode = ssl.CERT_NONE
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        server.load_cert_chain(files.certificate, files.key)
        client.load_verify_locations(files.certificate)
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
        for _ in range(FLIGHTS):
            for end in ends:
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in (EXPIRED, NOT_YET_VALID):
            return error.verify_message
    except OSError:
        pass  # whatever it is, the other side says it
    return ""


def _stamp(files: TlsFiles) -> Stamp | None:
    """By which one can tell that files have changed."""
    try:
        found = [os.stat(path) for path in (files.certificate, files.key, files.ca)]
    except OSError:
        return None
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)
