# SPDX-License-Identifier: BSD-2-Clause
"""The package for setuptools; tools are configured in pyproject.toml, the version is the file `version`."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="qubes-miragevpn",
    version=(HERE / "version").read_text(encoding="ascii").strip(),
    description="A fail-closed VPN qube on an OpenVPN-compatible protocol core",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-2-Clause",
    packages=find_packages(include=["qubes_miragevpn", "qubes_miragevpn.*"]),
    package_data={"qubes_miragevpn": ["py.typed", "**/*.nft"]},
    python_requires=">=3.11",
    # The lower bounds are the versions that Debian 12 packages.
    install_requires=["cryptography>=38", "pyOpenSSL>=23", "pyroute2>=0.7.2"],
    extras_require={
        "tun": ["python-pytun>=2.4"],  # compiled at installation; without it the TUN is opened by ioctl
        "dbus": ["dbus-next>=0.2.3"],
        "compression": ["lz4>=4", "python-lzo>=1.14"],  # looked for only where a profile lets compressed packets in
        "test": ["pytest>=8", "mypy>=1.8", "ruff>=0.4", "lz4>=4", "pytest-xdist>=3"],
    },
    entry_points={"console_scripts": ["miragevpn=qubes_miragevpn.cli.main:main"]},
)
