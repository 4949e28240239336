"""The parameters of TLS: which files, and which name the listener's certificate has."""

import ipaddress
import os
import re
from typing import Any

import msgspec

from vswitch import values
from vswitch.errors import InputError
from vswitch.values import TEXT, Parameter

_HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
EXAMPLE = "cert.pem,key.pem,ca.pem"


class TlsFiles(msgspec.Struct, frozen=True):
    """Our certificate, with those between it and its CA; its key; and the CA of the other side's certificate."""

    certificate: str
    key: str
    ca: str

    def __str__(self) -> str:
        return ",".join((self.certificate, self.key, self.ca))

    def absolute(self) -> "TlsFiles":
        """The same, with paths that hold in any working directory."""
        return TlsFiles(*map(os.path.abspath, (self.certificate, self.key, self.ca)))


def _files(value: Any) -> TlsFiles:
    paths = [values.text(path, EXAMPLE) for path in values.items(value, EXAMPLE)]
    if len(paths) != 3:
        raise InputError(f"needs three files, the certificate, its key and the CA; write it like {EXAMPLE}")
    for path in paths:
        if "\0" in path or not re.sub("[\udc80-\udcff]", "", path).isprintable():
            raise InputError(f"{values.shown(path)} cannot be a file's path")
    return TlsFiles(*paths)


def _name(value: Any) -> str:
    text = values.text(value, "lab.example")
    if not _is_address(text) and (not _HOST.fullmatch(text) or len(text) > 253):
        raise InputError(f"{values.shown(text)} is neither a host's name nor an address; write it like lab.example")
    return text


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def check(files: TlsFiles | None, name: str | None, *, connect: bool, qmp: str | None) -> None:
    """Whether parameters go together. Raises InputError."""
    if name is not None and (files is None or not connect):
        raise InputError("tls_name goes with connect and tls: it is in the certificate of who listens", "tls_name")
    if files is not None and qmp is not None:
        raise InputError("qmp: is a guest's, and no QEMU has TLS for its card; leave tls or qmp out", "qmp")


PARAMETERS = {
    "tls": Parameter(
        _files, values.several(TEXT), f"TLS, both sides verified: certificate, key and CA, like {EXAMPLE}."
    ),
    "tls_name": Parameter(_name, TEXT, "The name in the certificate of who listens: the host in the URL."),
}
