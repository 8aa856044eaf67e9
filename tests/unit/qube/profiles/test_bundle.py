# SPDX-License-Identifier: BSD-2-Clause
"""What may be handed in for import: profiles and tars of every make; and every tar that is a trap."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.qube.profiles.bundle import MAX_IMPORT, MAX_MEMBERS, unpack

TEXT = b"client\nremote vpn.example 1194\n"


def packed(members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT, **settings: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in settings.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def special(kind: bytes, name: str = "ca.crt", link: str = "/etc/shadow") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("a.ovpn")
        member.size = len(TEXT)
        tar.addfile(member, io.BytesIO(TEXT))
        odd = tarfile.TarInfo(name)
        odd.type, odd.linkname = kind, link
        tar.addfile(odd)
    return out.getvalue()


def test_a_profile_alone() -> None:
    found = unpack(TEXT)
    assert found.text == TEXT and found.files == {}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar(form: int) -> None:
    """In the root or in a folder, with time stamps that take a pax record."""
    for folder in ("", "./", "work/", "./a/b/"):
        found = unpack(packed({f"{folder}x.ovpn": TEXT, f"{folder}keys/ca.crt": b"CA"}, form, mtime=1.5))
        assert found.text == TEXT and found.files == {"keys/ca.crt": b"CA"}
        read = found.reader()
        assert read("keys/ca.crt") == read("./keys/../keys/ca.crt") == b"CA"
        for path in ("ca.crt", "/etc/passwd", "../keys/ca.crt", "x.ovpn", ""):
            with pytest.raises(OSError):
                read(path)


@pytest.mark.parametrize("options", [["--format=ustar"], ["--format=gnu"], ["--format=pax"]])
def test_the_tar_of_the_system(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "x.ovpn").write_bytes(TEXT)
    (tmp_path / "ca.crt").write_bytes(b"x" * 1000)
    data = subprocess.run(["tar", "-c", *options, "-C", tmp_path, "."], stdout=subprocess.PIPE, check=True).stdout
    assert unpack(data).files == {"ca.crt": b"x" * 1000}


def _damaged(change: Callable[[bytearray], None]) -> bytes:
    data = bytearray(packed({"a.ovpn": TEXT, "ca": b"CA"}))
    change(data)
    return bytes(data)


def _header(field: slice, value: bytes) -> bytes:
    """A header with a field of its own and a right checksum."""

    def change(data: bytearray) -> None:
        data[field] = value
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])

    return _damaged(change)


REFUSED = {
    "nothing": (b"", "empty"),
    "blank": (b" \n\n", "empty"),
    "binary": (b"client\0", "neither"),
    "too large": (b"#" * (MAX_IMPORT + 1), "larger"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "compressed"),
    "xz": (b"\xfd7zXZ\0" + bytes(20), "compressed"),
    "bzip2": (b"BZh9" + bytes(20), "compressed"),
    "no profile": (packed({"ca.crt": b"CA"}), "holds 0 files"),
    "two profiles": (packed({"a.ovpn": TEXT, "b.ovpn": TEXT}), "holds 2 files"),
    "absolute": (packed({"/a.ovpn": TEXT}), "absolute"),
    "upwards": (packed({"a.ovpn": TEXT, "../ca": b""}), r"\.\."),
    "upwards inside": (packed({"a.ovpn": TEXT, "x/../../ca": b""}), r"\.\."),
    "beside the folder": (packed({"x/a.ovpn": TEXT, "ca": b"x"}), "outside"),
    "hidden": (packed({"a.ovpn": TEXT, ".ca": b""}), "odd characters"),
    "a dash": (packed({"a.ovpn": TEXT, "-ca": b""}), "odd characters"),
    "a space": (packed({"a.ovpn": TEXT, "c a": b""}), "odd characters"),
    "a line break": (packed({"a.ovpn": TEXT, "c\na": b""}), "odd characters"),
    "another script": (packed({"a.ovpn": TEXT, "ä": b""}), "odd characters"),
    "deep": (packed({"a.ovpn": TEXT, "1/2/3/4/5": b""}), "nested"),
    "many": (packed({"a.ovpn": TEXT, **{f"f{n}": b"" for n in range(MAX_MEMBERS)}}), "more than"),
    "the same twice": (packed({"a.ovpn": TEXT, "./a.ovpn": TEXT}), "twice"),
    "a long name (gnu)": (
        packed({"a.ovpn": TEXT, "x" * 99 + "/" + "y" * 90: b""}, tarfile.GNU_FORMAT),
        "neither a plain",
    ),
    "a long name (pax)": (packed({"a.ovpn": TEXT, "x" * 101: b""}, tarfile.PAX_FORMAT), "extended"),
    "a symbolic link": (special(tarfile.SYMTYPE), "neither a plain"),
    "a hard link": (special(tarfile.LNKTYPE), "neither a plain"),
    "a device": (special(tarfile.CHRTYPE), "neither a plain"),
    "a block device": (special(tarfile.BLKTYPE), "neither a plain"),
    "a FIFO": (special(tarfile.FIFOTYPE), "neither a plain"),
    "a sparse file": (special(tarfile.GNUTYPE_SPARSE), "neither a plain"),
    "cut in the content": (packed({"a.ovpn": b"x" * 1000})[:700], "cut off"),
    "without an end": (packed({"a.ovpn": TEXT})[:1024], "cut off"),
    "a wrong checksum": (_damaged(lambda data: data.__setitem__(0, 0x62)), "damaged"),
    "a negative size": (_header(slice(124, 136), b"-0000000001\0"), "damaged"),
    "a size in base 256": (_header(slice(124, 136), b"\x80" + bytes(10) + b"\x05"), "damaged"),
    "a huge size": (_header(slice(124, 136), b"77777777777\0"), "cut off"),
    "the second header of another make": (_damaged(lambda data: data.__setitem__(slice(1281, 1286), b"xxxxx")), "kind"),
}


@pytest.mark.parametrize(("data", "problem"), REFUSED.values(), ids=list(REFUSED))
def test_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        unpack(data)


def test_many_folders_are_no_way_round_the_limit() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for n in range(5 * MAX_MEMBERS):
            member = tarfile.TarInfo(f"d{n}")
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
    with pytest.raises(ConfigError, match="too many entries"):
        unpack(out.getvalue())


def test_any_bytes() -> None:
    """Whatever is changed about a tar: a bundle whose names stay inside, or one typed error."""
    rng = random.Random(11)
    whole = packed({"w/a.ovpn": TEXT, "w/keys/ca.crt": b"x" * 600, "w/key": b"y"}, tarfile.GNU_FORMAT)
    taken = 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(2600)] = rng.randrange(256)
        try:
            found = unpack(bytes(data[: rng.choice((len(data), rng.randrange(len(data))))]))
        except ConfigError:
            continue
        taken += 1
        assert all(not name.startswith(("/", ".")) and "/../" not in name for name in found.files)
    assert taken
