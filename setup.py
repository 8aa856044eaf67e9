# SPDX-License-Identifier: BSD-2-Clause
"""The package for setuptools; tools are configured in pyproject.toml, the version is the file `version`.

The native data plane (native/) is built where cargo and setuptools-rust are; without it the package runs on the
reference. MIRAGEVPN_NATIVE=require makes a failure of that build a failure, MIRAGEVPN_NATIVE=skip leaves it out.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def native() -> list[Any]:
    """The extension module in Rust, if it can be built here."""
    wish = os.environ.get("MIRAGEVPN_NATIVE", "")
    if wish == "skip":
        return []
    try:
        from setuptools_rust import Binding, RustExtension
    except ImportError:
        missing = "setuptools-rust"
    else:
        missing = "" if shutil.which("cargo") else "cargo"
    if missing:
        if wish == "require":
            sys.exit(f"the native data plane cannot be built: there is no {missing}")
        print(f"there is no {missing}: the data plane will be the reference, which is slow", file=sys.stderr)
        return []
    return [
        RustExtension(
            "qubes_miragevpn.dataplane._native",
            "native/binding/Cargo.toml",
            binding=Binding.PyO3,
            py_limited_api=True,
            debug=False,
            cargo_manifest_args=["--locked"],
            optional=wish != "require",
        )
    ]


EXTENSIONS = native()

setup(
    name="qubes-miragevpn",
    version=(HERE / "version").read_text(encoding="ascii").strip(),
    description="A fail-closed VPN qube on an OpenVPN-compatible protocol core",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-2-Clause",
    packages=find_packages(include=["qubes_miragevpn", "qubes_miragevpn.*"]),
    package_data={"qubes_miragevpn": ["py.typed", "**/*.nft", "**/*.pyi"]},
    python_requires=">=3.11",
    # The lower bounds are the versions that Debian 12 packages.
    install_requires=["cryptography>=38", "pyOpenSSL>=23", "pyroute2>=0.7.2"],
    extras_require={
        "tun": ["python-pytun>=2.4"],  # compiled at installation; without it the TUN is opened by ioctl
        "dbus": ["dbus-next>=0.2.3"],
        "compression": ["lz4>=4", "python-lzo>=1.14"],  # looked for only where a profile lets compressed packets in
        "test": ["pytest>=8", "mypy>=1.8", "ruff>=0.4", "lz4>=4", "pytest-xdist>=3"],
    },
    entry_points={
        "console_scripts": [
            "miragevpn=qubes_miragevpn.cli.main:main",
            "qvm-miragevpn=qubes_miragevpn.admin.main:main",
        ]
    },
    # Without setuptools-rust nobody knows that word.
    **({"rust_extensions": EXTENSIONS} if EXTENSIONS else {}),
)
