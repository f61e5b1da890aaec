"""What a maintainer's builder does: a clone, `apt-get build-dep .`, `dpkg-buildpackage -us -uc`, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tools.lab import tree
from tools.lab.roots import layers_of_builder

CONTROL = tree.TREE / "debian/control"
# The lintian of bookworm is older than the Standards-Version that we follow.
NO_FAULTS = "newer-standards-version"
CLIENT = {".dsc", ".tar.xz", "_all.deb", ".buildinfo", ".changes"}
# The same tree makes the controller only where Debian has what it needs.
MADE = {"bookworm": CLIENT, "trixie": {*CLIENT, "-controller_all.deb"}}


def build(suite: str, into: Path, profile: str = "") -> str:
    """All that the build makes of every file that git has; what it said."""
    into.mkdir()
    chosen = [f"--build-profiles={profile}"] if profile else []
    log = into / "log"
    with tree.Workshop(suite, tree.sources(), layers_of_builder(suite, CONTROL.read_text(), profile)) as builder:
        builder.run("dpkg-buildpackage", "-us", "-uc", *chosen, log=log)
        for product in (builder.root / "build").glob("infoscreen-reboot*_*"):
            shutil.copy(product, into)
    return log.read_text()


def check_with_lintian(suite: str, products: Path) -> None:
    with tree.Workshop(suite, []) as workshop:
        shutil.copytree(products, workshop.source)
        (changes,) = workshop.source.glob("*.changes")
        judge = "lintian", "--fail-on=error,warning", f"--suppress-tags={NO_FAULTS}"
        workshop.run(*judge, changes.name, log=workshop.directory / "log")


def kinds(products: Path) -> set[str]:
    """What was made, without version and architecture of the builder, and without what all names begin with."""
    name = re.compile(r"infoscreen-reboot(-controller)?_[^_]+?(_all)?(?:_[a-z0-9]+)?(\.[a-z.]+)")
    found = (name.fullmatch(path.name) for path in products.iterdir())
    return {"".join(part or "" for part in match.groups()) for match in found if match}


def test_source_and_binary_are_built_and_tested_where_only_the_build_depends_are(suite: str, tmp_path: Path) -> None:
    products = tmp_path / "products"
    told = build(suite, products)
    assert re.search(r"^\d+ passed", told, re.MULTILINE), told[-3000:]
    assert kinds(products) == MADE[suite]
    check_with_lintian(suite, products)


def test_without_checks_less_is_needed_and_the_package_is_the_same(suite: str, tmp_path: Path) -> None:
    products = tmp_path / "products"
    told = build(suite, products, "nocheck")
    assert "pytest" not in told
    assert kinds(products) == MADE[suite]
    check_with_lintian(suite, products)
