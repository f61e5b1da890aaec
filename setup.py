"""What pybuild installs, and what stdeb reads for its second opinion on debian/control."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(
    r'^__version__ = "([^"]+)"$', Path("infoscreen_reboot/__init__.py").read_text("utf-8"), re.MULTILINE
)
if VERSION is None:
    raise SystemExit("cannot find __version__ in infoscreen_reboot/__init__.py")

setup(
    name="infoscreen-reboot",
    version=VERSION.group(1),
    description="remote reboot and shutdown of signage clients over MQTT",
    long_description=(
        "An unprivileged agent takes reboot and shutdown commands from an MQTT broker, writes each\n"
        "step down before it acts, and proves a reboot by the kernel's boot id."
    ),
    url="https://github.com/infoscreen/infoscreen-reboot",
    maintainer="Infoscreen Reboot maintainers",
    maintainer_email="maintainers@infoscreen.example",
    license="MIT",
    python_requires=">=3.11",
    # Named, not found: whatever else lies in the tree (helper, tests) must never become a public module.
    packages=find_packages(include=["infoscreen_reboot", "infoscreen_reboot.*"]),
    package_data={
        "infoscreen_reboot.contract": ["schemas/*.json"],
        # Alembic reads them as files, so their folder is no package.
        "infoscreen_reboot.controller.store": ["migrations/*.py", "migrations/versions/*.py"],
        "infoscreen_reboot.controller.web": ["templates/*.html", "static/*"],
    },
    install_requires=["dbus-next", "jsonschema", "paho-mqtt", "systemd-python"],
    # No entry points: the launchers in debian/launchers know where the private modules lie.
)
