"""Certificates for tests of TLS, which an authority of their own issues."""

import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


class Authority:
    """A CA, which issues certificates by name, in files."""

    def __init__(self) -> None:
        import trustme  # by those alone whose tests need it

        _made.append(self)
        self._directory = TemporaryDirectory(prefix="vs-tls-")
        self._ca = trustme.CA()
        self.path = self._file("ca.pem")
        self._ca.cert_pem.write_to_path(self.path)
        self._issued: set[str] = set()

    def issue(self, name: str, *identities: str, expired: bool = False) -> tuple[str, str]:
        """The paths of a certificate and its key, for these hosts, or for this machine; made once for each name."""
        paths = self._file(f"{name}.pem"), self._file(f"{name}.key")
        if name not in self._issued:
            until = datetime.now(UTC) + timedelta(days=-1 if expired else 1)
            made = self._ca.issue_cert(*(identities or (f"{name}.example", "127.0.0.1")), not_after=until)
            for path, blob in zip(paths, (made.cert_chain_pems[0], made.private_key_pem), strict=True):
                blob.write_to_path(path)
            self._issued.add(name)
        return paths

    def files(self, name: str, *identities: str, expired: bool = False, trusts: "Authority | None" = None) -> str:
        """What `tls=` says of somebody who trusts this authority, or another."""
        return ",".join((*self.issue(name, *identities, expired=expired), (trusts or self).path))

    def context(self, name: str, *, server_side: bool) -> ssl.SSLContext:
        """For a program other than ours."""
        context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH if server_side else ssl.Purpose.SERVER_AUTH, cafile=self.path
        )
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(*self.issue(name))
        return context

    def clean_up(self) -> None:
        self._directory.cleanup()

    def _file(self, name: str) -> str:
        return str(Path(self._directory.name) / name)


_made: list[Authority] = []


def clean_up() -> None:
    """Removes the files of all, at the end."""
    for made in _made:
        made.clean_up()


@cache
def authority() -> Authority:
    """One that all tests trust."""
    return Authority()
