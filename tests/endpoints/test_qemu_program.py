"""Which QEMU is taken: one that is named, or else what a distribution has."""

from pathlib import Path

import pytest

from vswitch.endpoints.guests import qemu_program


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place with programs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(qemu_program.VARIABLE, raising=False)
    monkeypatch.setattr(qemu_program, "PLACES", ("qemu-kvm", str(tmp_path / "libexec" / "qemu-kvm")))
    (tmp_path / "libexec").mkdir()
    return tmp_path


def install(path: Path) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_the_first_that_is_there(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert qemu_program.find() is None
    assert "install the package qemu-system-x86, or name a QEMU in VSWITCH_QEMU" in qemu_program.missing()
    for name in ("libexec/qemu-kvm", "qemu-kvm", "qemu-system-x86_64"):
        path = install(programs / name)
        assert qemu_program.find() == path
    arm = install(programs / "qemu-system-aarch64")
    assert qemu_program.find("aarch64") == arm
    own = install(programs / "own")
    for named in (own, "own"):
        monkeypatch.setenv("VSWITCH_QEMU", named)
        assert qemu_program.find() == qemu_program.find("aarch64") == own
    monkeypatch.setenv("VSWITCH_QEMU", "/nowhere")
    assert qemu_program.find() is None
    assert qemu_program.missing().startswith("VSWITCH_QEMU: '/nowhere' is no program")
