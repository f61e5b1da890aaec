"""The packages: what stdeb thinks of them, what lies in each .deb, and what Debian's own tools say."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

import infoscreen_reboot
from infoscreen_reboot.client import config
from infoscreen_reboot.controller import config as controller_config

TREE = Path(__file__).resolve().parents[1]
CLIENT, CONTROLLER = "infoscreen-reboot", "infoscreen-reboot-controller"
# The folder of modules that the other package must not have.
FOREIGN = {CLIENT: "controller", CONTROLLER: "client"}
AGENT, HELPER = "infoscreen-simclient.service", "infoscreen-reboot-helper.service"
NOTIFIER = "infoscreen-notify-failure@.service"
CLOCK = "infoscreen-reboot-clock.service"
SERVER = "infoscreen-reboot-controller.service"
POWER = "infoscreen-reboot-controller-power.service"
# A folder of the tree, and where its files lie on the target, in the package that their name tells.
SHIPPED = {
    "dbus/system-services": "usr/share/dbus-1/system-services",
    "dbus/system.d": "usr/share/dbus-1/system.d",
    "polkit/actions": "usr/share/polkit-1/actions",
    "polkit/rules.d": "usr/share/polkit-1/rules.d",
    "systemd/dispatcher.d": "usr/lib/NetworkManager/dispatcher.d",
    "systemd/sysctl.d": "usr/lib/sysctl.d",
    "systemd/system": "usr/lib/systemd/system",
    "systemd/system.conf.d": "usr/lib/systemd/system.conf.d",
    "systemd/sysusers.d": "usr/lib/sysusers.d",
    "systemd/udev/rules.d": "usr/lib/udev/rules.d",
}
PROGRAMS = {
    CLIENT: {
        "usr/bin/infoscreen-reboot",
        "usr/libexec/infoscreen-reboot/infoscreen-notify-failure",
        "usr/libexec/infoscreen-reboot/infoscreen-simclient",
        "usr/libexec/infoscreen-reboot/infoscreen-reboot-helper",
        "usr/libexec/infoscreen-reboot/infoscreen-reboot-probe",
    },
    CONTROLLER: {
        "usr/bin/infoscreen-rebootctl",
        "usr/libexec/infoscreen-reboot-controller/infoscreen-reboot-controller",
    },
}
SETTINGS = {CLIENT: "etc/infoscreen-reboot/agent.env", CONTROLLER: "etc/infoscreen-reboot-controller/controller.env"}
# Plain sh.
SCRIPTS = {
    CLIENT: {"usr/libexec/infoscreen-reboot/infoscreen-reboot-clock"},
    CONTROLLER: {"usr/sbin/infoscreen-reboot-controller"},
}
DISPATCHER = "usr/lib/NetworkManager/dispatcher.d/50-infoscreen-reboot"
# Debian's tools in Debian's Python, and no DEBEMAIL or the like of whoever runs the tests.
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEB_BUILD_OPTIONS": "nocheck",
}
OURS = AGENT, HELPER, NOTIFIER, CLOCK, SERVER, POWER
CLIENT_UUID = "9b8d1856-ff34-4864-a726-12de072d0f77"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What it printed, errors too. Fails the test with that if the command fails."""
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, text=True, stdout=pipe, stderr=both, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def copy_of_tree(target: Path, *left_out: str) -> Path:
    """Builds leave files behind; the work tree stays as it is."""
    leftovers = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", *left_out)
    shutil.copytree(TREE, target, symlinks=True, ignore=leftovers)
    return target


@dataclass(frozen=True)
class Deb:
    """A binary package, read once."""

    path: Path
    modes: dict[str, int]
    contents: dict[str, str]
    fields: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Deb:
        archive = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], capture_output=True, check=True)
        modes, contents = {}, {}
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
            for member in tar:
                # Merged /usr: bookworm's debhelper still puts units into /lib.
                name = re.sub(r"^lib/", "usr/lib/", member.name.removeprefix("./"))
                assert (member.uid, member.gid) == (0, 0), name
                modes[name] = member.mode
                if (file := tar.extractfile(member)) is not None:
                    contents[name] = file.read().decode("utf-8", errors="replace")
        lines = run("dpkg-deb", "--field", path).splitlines()
        fields = dict(line.split(": ", 1) for line in lines if not line.startswith(" "))
        return cls(path, modes, contents, fields)

    def scripts(self, name: str) -> str:
        return run("dpkg-deb", "--info", self.path, name)

    def modules(self) -> frozenset[str]:
        """Whatever Python could import from the package's own place, with its data."""
        places = "|".join((self.place, "usr/lib/python3/dist-packages/"))
        inside = (re.match(rf"(?:{places})(.+)", name) for name in self.contents)
        return frozenset(m[1] for m in inside if m and ".egg-info/" not in m[1])

    @property
    def place(self) -> str:
        """Of its modules; what stdeb makes has them elsewhere."""
        return f"usr/share/{self.fields['Package']}/"

    def named(self, *fields: str) -> frozenset[str]:
        """The packages that these fields of debian/control name."""
        wanted = ",".join(self.fields[field] for field in fields if field in self.fields)
        return frozenset(re.split(r"[ :(|]", one.strip())[0] for one in wanted.split(","))


def build_ours(directory: Path) -> dict[str, Deb]:
    run("dpkg-buildpackage", "--build=binary", "--no-sign", cwd=copy_of_tree(directory / "source"))
    found = [Deb.read(path) for path in directory.glob("*.deb")]
    return {deb.fields["Package"]: deb for deb in found}


def build_with_stdeb(directory: Path, change: Callable[[Path], None] = lambda tree: None) -> Deb:
    tree = copy_of_tree(directory / "source", "debian")
    change(tree)
    commands = ("--command-packages=stdeb.command", "sdist_dsc", "bdist_deb")
    output = run("/usr/bin/python3", "setup.py", *commands, cwd=tree)
    # It would be left out of Depends in silence otherwise.
    assert "Cannot find package that provides" not in output, output
    return Deb.read(next((tree / "deb_dist").glob("*.deb")))


def drift(debs: dict[str, Deb], second_opinion: Deb) -> dict[str, object]:
    """Where debian/ and setup.py disagree: the subject, and what stdeb has there or only one of them has.

    stdeb makes one package with all modules, and with the dependencies of the client.
    """
    found: dict[str, object] = {}
    ours = debs[CLIENT]
    if missing := second_opinion.named("Depends") - ours.named("Depends"):
        found["Depends"] = set(missing)
    modules = ours.modules() | debs[CONTROLLER].modules()
    if modules != second_opinion.modules():
        found["modules"] = set(modules ^ second_opinion.modules())
    for field in ("Package", "Version", "Homepage", "Maintainer"):
        # The Debian revision is no business of setup.py.
        if ours.fields[field].partition("-1")[0] != second_opinion.fields[field].partition("-1")[0]:
            found[field] = second_opinion.fields[field]
    return found


@pytest.fixture(scope="module")
def debs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Deb]:
    """Each package by its name."""
    found = build_ours(tmp_path_factory.mktemp("package"))
    assert set(found) == {CLIENT, CONTROLLER}
    return found


@pytest.fixture
def deb(debs: dict[str, Deb]) -> Deb:
    """The client's package."""
    return debs[CLIENT]


@pytest.fixture
def controller(debs: dict[str, Deb]) -> Deb:
    return debs[CONTROLLER]


def package_of(path: Path) -> str:
    """Whose a file of the tree is, by its name."""
    return CONTROLLER if path.name.startswith((CONTROLLER, "infoscreen-rebootctl")) else CLIENT


def test_stdeb_derives_the_same_modules_from_setup_py(debs: dict[str, Deb], tmp_path: Path) -> None:
    second_opinion = build_with_stdeb(tmp_path)
    assert drift(debs, second_opinion) == {}
    assert "python3-paho-mqtt" in second_opinion.named("Depends")


def test_stdeb_reports_each_change_that_debian_does_not_follow(debs: dict[str, Deb], tmp_path: Path) -> None:
    def change(tree: Path) -> None:
        setup = tree / "setup.py"
        text = setup.read_text("utf-8")
        for old, new in (
            ('install_requires=["', 'install_requires=["requests", "'),
            ("infoscreen/infoscreen-reboot", "elsewhere/infoscreen-reboot"),
            ("maintainers@", "nobody@"),
        ):
            assert old in text
            text = text.replace(old, new)
        setup.write_text(text, "utf-8")
        package = tree / "infoscreen_reboot"
        (package / "signing.py").rename(package / "signing2.py")
        version = package / "__init__.py"
        version.write_text(re.sub(r'(__version__ = )".*"', r'\1"9.9.9"', version.read_text("utf-8")), "utf-8")

    assert drift(debs, build_with_stdeb(tmp_path, change)) == {
        "Depends": {"python3-requests"},
        "modules": {"infoscreen_reboot/signing.py", "infoscreen_reboot/signing2.py"},
        "Version": "9.9.9-1",
        "Homepage": "https://github.com/elsewhere/infoscreen-reboot",
        "Maintainer": "Infoscreen Reboot maintainers <nobody@infoscreen.example>",
    }


def test_changelog_and_modules_agree_on_the_version() -> None:
    version = run("dpkg-parsechangelog", "--file", TREE / "debian/changelog", "--show-field", "Version")
    assert version.strip() == infoscreen_reboot.__version__


def test_every_file_of_the_tree_lies_where_the_target_wants_it_and_in_one_package(debs: dict[str, Deb]) -> None:
    for folder, target in SHIPPED.items():
        files = [path for path in (TREE / folder).rglob("*") if path.is_file()]
        assert files, f"nothing in {folder}"
        for path in files:
            name = f"{target}/{path.relative_to(TREE / folder)}"
            assert {owner for owner, deb in debs.items() if name in deb.contents} == {package_of(path)}, name
            assert debs[package_of(path)].contents[name] == path.read_text("utf-8")
    for page in (TREE / "docs/man").iterdir():
        name = f"usr/share/man/man{page.suffix[1:]}/{page.name}.gz"
        assert {owner for owner, deb in debs.items() if name in deb.contents} == {package_of(page)}, name


@pytest.mark.parametrize("package", [CLIENT, CONTROLLER])
def test_a_package_holds_no_file_without_a_reason(debs: dict[str, Deb], package: str) -> None:
    deb = debs[package]
    places = (
        *(f"{target}/" for target in SHIPPED.values()),
        f"{deb.place}infoscreen_reboot/",
        f"usr/share/doc/{package}/",
        "usr/share/man/",
    )
    others = {name for name in deb.contents if not name.startswith(places)}
    # dh_python3 reads there what the client needs.
    others = {name for name in others if not (package == CLIENT and ".egg-info/" in name)}
    command = "infoscreen-reboot" if package == CLIENT else "infoscreen-rebootctl"
    assert others == PROGRAMS[package] | SCRIPTS[package] | {
        SETTINGS[package],
        f"usr/share/bash-completion/completions/{command}",
        f"usr/share/lintian/overrides/{package}",
        f"usr/share/python3/runtime.d/{package}.rtupdate",
    }


ENDINGS = (".py", ".json", ".html", ".css", ".js", ".svg")


def shipped_modules(package: str) -> Iterator[Path]:
    """Of the tree: what is the package's own, and what both need."""
    for path in (TREE / "infoscreen_reboot").rglob("*"):
        if path.suffix in ENDINGS and path.relative_to(TREE).parts[1] != FOREIGN[package]:
            yield path


@pytest.mark.parametrize("package", [CLIENT, CONTROLLER])
def test_each_package_has_its_own_copy_of_what_it_needs_and_nothing_of_the_other(
    debs: dict[str, Deb], package: str
) -> None:
    ours = {str(path.relative_to(TREE)): path.read_text("utf-8") for path in shipped_modules(package)}
    assert debs[package].modules() == set(ours)
    assert {name: debs[package].contents[debs[package].place + name] for name in ours} == ours
    assert not any("dist-packages" in name for name in debs[package].contents)


def test_the_packages_have_no_file_in_common(debs: dict[str, Deb]) -> None:
    assert debs[CLIENT].contents.keys() & debs[CONTROLLER].contents.keys() == set()


def foreign_imports(path: Path) -> Iterator[str]:
    """The modules of others that a file imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name.partition(".")[0] not in {*sys.stdlib_module_names, "infoscreen_reboot"}:
                yield name


@pytest.mark.parametrize("package", [CLIENT, CONTROLLER])
def test_a_package_names_each_library_that_it_imports_and_no_other(debs: dict[str, Deb], package: str) -> None:
    files = [path for path in shipped_modules(package) if path.suffix == ".py"]
    if package == CLIENT:
        files += [TREE / "helper/infoscreen_reboot_helper.py"]
    needed = set()
    for name in {name for path in files for name in foreign_imports(path)}:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, name
        needed.add(run("dpkg-query", "--search", spec.origin).partition(":")[0])
    if package == CONTROLLER:
        needed.add("python3-sqlalchemy-ext")  # its compiled part, which it only recommends
    named = debs[package].named("Depends", "Recommends")
    # The library apprise is in the package of its program.
    assert {name for name in named if name.startswith("python3-") or name == "apprise"} == needed


def test_programs_are_executable_and_isolated_from_the_callers_python(debs: dict[str, Deb]) -> None:
    for package, programs in PROGRAMS.items():
        for name in programs:
            assert debs[package].modes[name] == 0o755
            assert debs[package].contents[name].startswith("#!/usr/bin/python3 -I\n"), name


@pytest.mark.parametrize("package", [CLIENT, CONTROLLER])
def test_only_root_reads_what_may_hold_a_password(debs: dict[str, Deb], package: str) -> None:
    assert debs[package].modes[SETTINGS[package]] == 0o640
    assert debs[package].modes[f"{SETTINGS[package]}.d"] == 0o750
    assert debs[package].scripts("conffiles").split() == [f"/{SETTINGS[package]}"]


def shown_settings(file: str) -> dict[str, str]:
    """What a shipped file of settings shows as defaults; it sets nothing."""
    lines = (TREE / "debian" / file).read_text("utf-8").splitlines()
    assert all(line.startswith("#") for line in lines if line)
    return {m[1]: m[2] for line in lines if (m := re.fullmatch(r"#([A-Z_]+)=(.*)", line))}


def explained_settings(page: str) -> set[str]:
    text = (TREE / "docs/man" / page).read_text("utf-8")
    headings = re.findall(r"^\.It (.*)$", text, re.MULTILINE)
    return {name for heading in headings for name in re.findall(r"Ev ([A-Z_]+)", heading)}


def test_the_clients_configuration_sets_nothing_and_shows_the_true_defaults() -> None:
    shown = shown_settings("agent.env")
    required = {"MQTT_BROKER": "broker.example", "CLIENT_UUID": CLIENT_UUID}
    assert config.unknown_names(shown) == []
    assert config.load({**shown, **required}) == config.load(required)
    code = Path(config.__file__).read_text("utf-8")
    known = set(re.findall(r'"((?:MQTT|CLIENT|COMMAND|POST_BOOT)_[A-Z_]*[A-Z])"', code))
    assert set(shown) == explained_settings("infoscreen-reboot.env.5") == known


def test_the_controllers_configuration_sets_nothing_and_shows_the_true_defaults() -> None:
    shown = shown_settings("controller.env")
    required = {"MQTT_BROKER": "broker.example"}
    assert controller_config.load({**shown, **required}) == controller_config.load(required)
    assert set(shown) == explained_settings("infoscreen-reboot-controller.env.5") == set(controller_config._NAMES)


def test_the_agent_is_enabled_and_both_units_are_stopped_on_removal(deb: Deb) -> None:
    assert f"deb-systemd-helper enable '{AGENT}'" in deb.scripts("postinst")
    assert f"deb-systemd-helper enable '{HELPER}'" not in deb.scripts("postinst")
    for unit in (AGENT, HELPER):
        assert f"deb-systemd-invoke $_dh_action '{unit}'" in deb.scripts("postinst")
        assert f"deb-systemd-invoke stop '{unit}'" in deb.scripts("prerm")


def test_the_controller_is_enabled_restarted_on_upgrade_and_stopped_on_removal(controller: Deb) -> None:
    assert f"deb-systemd-helper enable '{SERVER}'" in controller.scripts("postinst")
    assert f"deb-systemd-invoke $_dh_action '{SERVER}'" in controller.scripts("postinst")
    assert f"deb-systemd-invoke stop '{SERVER}'" in controller.scripts("prerm")


def test_the_notifier_is_started_by_failures_only_and_stopped_on_removal(deb: Deb) -> None:
    assert "infoscreen-notify-failure" not in deb.scripts("postinst")
    assert "deb-systemd-invoke stop 'infoscreen-notify-failure@*.service'" in deb.scripts("prerm")


def test_scripts_are_plain_sh_and_what_network_manager_accepts(debs: dict[str, Deb]) -> None:
    for package, scripts in SCRIPTS.items():
        for name in (*scripts, *([DISPATCHER] if package == CLIENT else [])):
            assert debs[package].modes[name] == 0o755
            assert debs[package].contents[name].startswith("#!/bin/sh\n"), name


def test_the_clock_is_looked_after_from_the_first_boot_on(deb: Deb) -> None:
    assert f"deb-systemd-helper enable '{CLOCK}'" in deb.scripts("postinst")


@pytest.mark.parametrize("package", [CLIENT, CONTROLLER])
def test_the_user_exists_before_the_service_starts(debs: dict[str, Deb], package: str) -> None:
    postinst = debs[package].scripts("postinst")
    assert 0 < postinst.index("systemd-sysusers") < postinst.index("deb-systemd-invoke")


def test_systemd_understands_every_line_of_the_units(debs: dict[str, Deb], tmp_path: Path) -> None:
    for deb in debs.values():
        run("dpkg-deb", "--extract", deb.path, tmp_path)
    (agent,) = tmp_path.glob(f"**/systemd/system/{AGENT}")
    units = agent.parent
    # The units that ours refer to.
    shutil.copytree("/usr/lib/systemd/system", units, symlinks=True, dirs_exist_ok=True)
    tmp_path.joinpath("bin").mkdir()
    shutil.copy("/bin/sh", tmp_path / "bin/sh")
    tuned = "reboot.target", "emergency.service"
    assert run("systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", *OURS, *tuned) == ""


@pytest.mark.parametrize(
    ("unit", "tenths"), [(AGENT, 12), (NOTIFIER, 12), (HELPER, 6), (CLOCK, 10), (SERVER, 12), (POWER, 12)]
)
def test_units_are_confined(unit: str, tenths: int) -> None:
    path = TREE / "systemd/system" / unit
    run("systemd-analyze", "security", "--offline=true", f"--threshold={tenths}", path)


@pytest.mark.parametrize(
    ("unit", "megabytes", "tasks"),
    [(AGENT, 256, 64), (NOTIFIER, 128, 16), (HELPER, 128, 16), (SERVER, 512, 128), (POWER, 256, 128)],
)
def test_units_are_bounded(unit: str, megabytes: int, tasks: int) -> None:
    lines = (TREE / "systemd/system" / unit).read_text("utf-8").splitlines()
    assert f"MemoryMax={megabytes}M" in lines
    assert f"TasksMax={tasks}" in lines


def test_no_service_of_ours_is_left_without_bounds_or_skipped_by_a_condition() -> None:
    for path in (TREE / "systemd/system").glob("*.service"):
        text = path.read_text("utf-8")
        assert "\nMemoryMax=" in text and "\nTasksMax=" in text, path.name
        # systemd takes its own faults in setting that process up for "skip".
        assert "\nExecCondition=" not in text, path.name


def test_polkit_and_the_bus_can_read_their_xml() -> None:
    policy = ET.parse(TREE / "polkit/actions/org.infoscreen.reboothelper1.policy").getroot()
    actions = {action.get("id") for action in policy.iter("action")}
    assert actions == {"org.infoscreen.reboothelper1.reboot", "org.infoscreen.reboothelper1.shutdown"}
    defaults = [child.text for element in policy.iter("defaults") for child in element]
    assert defaults == ["no"] * 6
    for path in (TREE / "dbus/system.d").iterdir():
        assert ET.parse(path).getroot().tag == "busconfig"


def test_lintian_has_no_error_and_no_warning(deb: Deb) -> None:
    changes = next(deb.path.parent.glob("*.changes"))
    root = ("--allow-root",) if os.geteuid() == 0 else ()
    run("lintian", *root, "--fail-on=error,warning", changes)
