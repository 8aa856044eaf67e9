# SPDX-License-Identifier: BSD-2-Clause
"""The store of profiles: what is there, what is taken in, and that nothing is ever half-done."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import ConfigError, KeyLocked
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.qube.profiles import Profiles, options
from qubes_miragevpn.qube.profiles.options import ProfileOptions
from qubes_miragevpn.qube.settings import Settings
from qubes_miragevpn.runtime import disk
from tests.interop.pki import Authority
from tests.unit.config.trust import Made
from tests.unit.qube.profiles.test_bundle import packed

CA = Authority("store").certificate
WHOLE = f"client\nremote vpn.example 1194\nauth-user-pass\nremote-cert-tls server\n<ca>\n{CA}</ca>\n".encode()
PARTS = WHOLE.split(b"<ca>")[0] + b"ca keys/ca.crt\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("profiles", "credentials", "settings"):
        (tmp_path / name).mkdir(mode=0o700)
    return Settings(
        profile_dir=tmp_path / "profiles",
        credentials_dir=tmp_path / "credentials",
        profile_settings_dir=tmp_path / "settings",
    )


def put(settings: Settings, *names: str, text: str = "client\n") -> None:
    for name in names:
        path = settings.profile_dir / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def everything(settings: Settings) -> dict[str, bytes]:
    """Every file of the store."""
    root = settings.profile_dir.parent
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_names(settings: Settings) -> None:
    """Files *.ovpn and directories, by name; whatever is named otherwise is not there."""
    put(settings, "b.ovpn", "a/x.ovpn", "notes.txt", ".hidden.ovpn", "a b.ovpn", "ä.ovpn", "..ovpn", "a..b.ovpn")
    os.mkfifo(settings.profile_dir / "pipe.ovpn")
    (settings.profile_dir / "gone.ovpn").symlink_to("nowhere")
    assert Profiles(settings).names() == ["a", "b"]


def test_no_directory(settings: Settings) -> None:
    settings.profile_dir.rmdir()
    profiles = Profiles(settings)
    assert profiles.names() == []


def test_loading_tells_what_is_wrong(settings: Settings) -> None:
    put(settings, "bad.ovpn", text="client\nno-such-directive\n")
    put(settings, "two/a.ovpn", "two/b.ovpn")
    (settings.profile_dir / "none").mkdir()
    (settings.profile_dir / "out.ovpn").symlink_to("/etc/hostname")
    profiles = Profiles(settings)
    for name, problem in (
        ("bad", r"bad.ovpn:2: "),
        ("two", r"two: holds 2 files"),
        ("none", r"none: holds 0 files"),
        ("gone", r"gone.ovpn: cannot be read"),
        ("out", r"out.ovpn: cannot be read"),
        ("../x", "not the name of a profile"),
    ):
        with pytest.raises(ConfigError, match=problem):
            profiles.load(name)


def test_files_of_a_profile_stay_in_its_directory(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    put(settings, "p/p.ovpn", text="client\nremote a.example 1194\nca ../../secret\nauth-user-pass\n")
    with pytest.raises(ConfigError, match=r"p.ovpn:3.*outside"):
        Profiles(settings).load("p")


def test_credentials(settings: Settings) -> None:
    profiles = Profiles(settings)
    path = settings.credentials_dir / "a"
    assert profiles.credentials("a") is None and profiles.credentials("../current") is None
    for text in (b"me\r\npass word\n", b"\xef\xbb\xbfme\r\npass word"):
        path.write_bytes(text)
        path.chmod(0o600)
        found = profiles.credentials("a")
        assert found is not None and (found.username, found.password.reveal()) == ("me", b"pass word")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="may be read by others"):
        profiles.credentials("a")
    path.chmod(0o600)
    for damage in (b"", b"me\n", b"\npass\n", b"me\npass\nmore\n", b"me\n" + b"x" * 5000):
        path.write_bytes(damage)
        with pytest.raises(ConfigError, match="two lines") as refused:
            profiles.credentials("a")
        assert "pass" not in str(refused.value).replace("password", "")
    for damage in (b"me\n" + b"x" * 128, b"m" * 128 + b"\npass"):
        path.write_bytes(damage)
        with pytest.raises(ConfigError, match="no server takes more than 127 bytes"):
            profiles.credentials("a")
    path.write_bytes(b"me\n" + b"x" * 127)
    assert profiles.credentials("a") is not None


def test_credentials_outside_the_directory(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("me\npass\n")
    (tmp_path / "other").chmod(0o600)
    (settings.credentials_dir / "a").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError, match="cannot be read"):
        Profiles(settings).credentials("a")


@pytest.mark.parametrize("kind", ["key", "pkcs12", "pkcs12 with its authority"])
def test_a_key_whose_password_nobody_knows_yet(settings: Settings, kind: str) -> None:
    """Such a profile is taken in and may be switched to; whatever else is wrong with it is found all the same."""
    authority = Made("authority")
    own = Made("own", authority)
    files = {"own.p12": own.p12(b"sesame", authority)}
    ca = f"<ca>\n{authority.pem}</ca>\n"
    lines = {
        "key": f"{ca}<cert>\n{own.pem}</cert>\n<key>\n{own.key_pem(b'sesame')}</key>\n",
        "pkcs12": f"{ca}pkcs12 own.p12\n",
        "pkcs12 with its authority": "pkcs12 own.p12\n",
    }[kind]
    text = f"client\nremote vpn.example 1194\nremote-cert-tls server\n{lines}".encode()
    profiles = Profiles(settings)
    said = profiles.install("a", packed({"a.ovpn": text, **files}))
    assert any("has a password, which is asked for" in line for line in said)
    profiles.check("a")
    for wrong in (None, Secret(b"wrong")):
        with pytest.raises(KeyLocked):
            profiles.load("a", wrong)
    identity = profiles.load("a", Secret(b"sesame")).common.identity
    assert identity is not None and b"ENCRYPTED" not in identity.key_pem.reveal()
    with pytest.raises(ConfigError, match="unknown directive"):
        profiles.install("b", packed({"b.ovpn": text + b"nonsuch 1\n", **files}))
    with pytest.raises(ConfigError, match="cannot be opened") as refused:  # what a file says is not left to the user
        profiles.install("b", packed({"b.ovpn": text + b"askpass pw\n", "pw": b"wrong\n", **files}))
    assert not isinstance(refused.value, KeyLocked)


# --- taking in --------------------------------------------------------------------------------------------


def test_importing_a_profile(settings: Settings) -> None:
    """A file or a tar becomes a folder for the owner's eyes only, and takes the place of what had the name."""
    profiles = Profiles(settings)
    put(settings, "a.ovpn", text="old")
    profiles.install("a", WHOLE)
    assert everything(settings) == {"profiles/a/a.ovpn": WHOLE}
    assert profiles.load("a").auth_user_pass
    profiles.install("a", packed({"x/any.ovpn": PARTS, "x/keys/ca.crt": CA.encode()}))
    assert everything(settings) == {"profiles/a/a.ovpn": PARTS, "profiles/a/keys/ca.crt": CA.encode()}
    assert profiles.load("a").auth_user_pass and profiles.names() == ["a"]
    for path in settings.profile_dir.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a", b"client\nno-such-directive\n", "a.ovpn:2: "),
        ("a", PARTS, "not among the files"),
        ("a", packed({"a.ovpn": PARTS, "ca.crt": CA.encode()}), "not among the files"),
        ("a", WHOLE.replace(b"auth-user-pass", b"auth-user-pass /etc/hostname"), "not among the files"),
        ("a", b"", "empty"),
        ("..", WHOLE, "not a name"),
        ("a/b", WHOLE, "not a name"),
        ("a.ovpn", WHOLE, "not a name"),
        (".new-x", WHOLE, "not a name"),
    ],
)
def test_what_is_refused_changes_nothing(settings: Settings, name: str, data: bytes, problem: str) -> None:
    profiles = Profiles(settings)
    profiles.install("a", WHOLE)
    before = everything(settings)
    with pytest.raises(ConfigError, match=problem):
        profiles.install(name, data)
    assert everything(settings) == before and profiles.names() == ["a"]


@pytest.mark.parametrize("broken", ["_exchange", "flush"])
def test_a_disk_that_fails_leaves_the_old(settings: Settings, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = Profiles(settings)
    profiles.install("a", WHOLE)
    before = everything(settings)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, broken, fail)
    with pytest.raises(OSError, match="No space"):
        profiles.install("a", packed({"any.ovpn": PARTS, "keys/ca.crt": CA.encode()}))
    assert everything(settings) == before


def test_a_crash_leaves_something_to_sweep_and_nothing_to_use(settings: Settings) -> None:
    (settings.profile_dir / f"{disk.PREFIX}x").mkdir()
    (settings.profile_dir / f"{disk.PREFIX}x" / "a.ovpn").write_bytes(WHOLE)
    (settings.credentials_dir / f"{disk.PREFIX}y").write_text("me\npass\n")
    (settings.profile_dir / f"{disk.PREFIX}z").symlink_to("/etc")
    profiles = Profiles(settings)
    assert profiles.names() == []
    profiles.tidy()
    assert everything(settings) == {} and Path("/etc/passwd").exists()
    assert list(settings.profile_dir.iterdir()) == []


def test_a_first_start_makes_the_folders(tmp_path: Path) -> None:
    names = {"profile_dir": "p", "credentials_dir": "c", "profile_settings_dir": "s"}
    Profiles(Settings(**{key: tmp_path / name for key, name in names.items()})).tidy()  # type: ignore[arg-type]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == dict.fromkeys("pcs", 0o700)


def test_removing(settings: Settings) -> None:
    profiles = Profiles(settings)
    profiles.install("a", WHOLE)
    put(settings, "b.ovpn")
    for name in ("a", "b"):
        profiles.set_credentials(name, b"me\npass\n")
        (settings.profile_settings_dir / name).write_text("")
        assert profiles.remove(name) and not profiles.remove(name)
    assert everything(settings) == {} and not profiles.remove("../credentials")


@pytest.mark.parametrize("folder", [True, False])
def test_renaming(settings: Settings, folder: bool) -> None:
    """Credentials and settings go along; a name that is taken, odd or missing is refused."""
    profiles = Profiles(settings)
    if folder:
        profiles.install("a", WHOLE)
    else:
        (settings.profile_dir / "a.ovpn").write_bytes(WHOLE)
    put(settings, "other.ovpn")
    profiles.set_credentials("a", b"me\npass\n")
    (settings.profile_settings_dir / "a").write_text("fallback_resolvers = 9.9.9.9\n")
    for old, new, problem in (("a", "other", "already"), ("gone", "b", "no such"), ("a", "b/c", "not a name")):
        with pytest.raises(ConfigError, match=problem):
            profiles.rename(old, new)
    profiles.rename("a", "b")
    assert profiles.names() == ["b", "other"] and profiles.load("b").auth_user_pass
    found = profiles.credentials("b")
    assert found is not None and found.username == "me" and profiles.credentials("a") is None
    assert profiles.options("b").fallback_resolvers and profiles.options("a") == ProfileOptions()


def test_setting_credentials(settings: Settings) -> None:
    profiles = Profiles(settings)
    with pytest.raises(ConfigError, match="no such profile"):
        profiles.set_credentials("a", b"me\npass\n")
    profiles.install("a", WHOLE)
    assert profiles.set_credentials("a", "mé\r\npass wörd\n".encode())
    path = settings.credentials_dir / "a"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = profiles.credentials("a")
    assert found is not None and (found.username, found.password.reveal()) == ("mé", "pass wörd".encode())
    for damage in (b"me", b"me\npass\nmore", b"\npass", b"me\n" + b"x" * 5000, b"a\0b\nc"):
        with pytest.raises(ConfigError, match="two lines"):
            profiles.set_credentials("a", damage)
        assert profiles.credentials("a") == found
    assert not profiles.set_credentials("a", b"") and profiles.credentials("a") is None


# --- the owner's settings of a profile --------------------------------------------------------------------


def test_settings_of_a_profile(settings: Settings) -> None:
    profiles = Profiles(settings)
    assert profiles.options("a") == profiles.options("../x") == ProfileOptions()
    (settings.profile_settings_dir / "a").write_text("# mine\n\nfallback_resolvers = 10.8.0.1, 2001:db8::1\n")
    assert [str(each) for each in profiles.options("a").fallback_resolvers] == ["10.8.0.1", "2001:db8::1"]
    (settings.profile_settings_dir / "b").symlink_to("/etc/hostname")
    with pytest.raises(ConfigError, match="settings/b: cannot be read"):
        profiles.options("b")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fallback = 1.1.1.1", "a:1: a line is"),
        ("\nfallback_resolvers", "a:2: a line is"),
        ("fallback_resolvers = one", "a:1: fallback_resolvers"),
        ("fallback_resolvers = ::1", "belongs to"),
        ("fallback_resolvers = fd09:24ef:4179::a8b:1", "belongs to"),
        ("fallback_resolvers = 2001:db8::1%eth0", "without an interface"),
        ("fallback_resolvers = 2001:db8::1 2001:db8::2 2001:db8::3 2001:db8::4 2001:db8::5", "more than"),
        ("fallback_resolvers = 10.139.1.1", "belongs to"),
        ("fallback_resolvers = 127.0.0.1", "belongs to"),
        ("fallback_resolvers = 1.1.1.1 1.1.1.2 1.1.1.3 1.1.1.4 1.1.1.5", "more than"),
        ("fallback_resolvers = 1.1.1.1\nfallback_resolvers = 1.1.1.1", "a:2: .*twice"),
    ],
)
def test_settings_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        options.parse(text.encode(), "a")
