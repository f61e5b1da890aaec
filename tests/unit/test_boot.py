"""What the machine says of itself."""

import shutil
import subprocess
import uuid
from pathlib import Path

from infoscreen_reboot.agent import boot

MACHINE_ID = "3d1219c7c4c5404aaa1f6d2a48adfda4"


def test_the_machines_uuid_is_the_one_systemd_derives(tmp_path: Path) -> None:
    tool = shutil.which("systemd-id128")
    assert tool is not None
    application = "6e1a2d3c93c54f0e8f1b6f2f6f7d2a71"
    machine_id = Path("/etc/machine-id").read_text().strip()
    told = subprocess.run(
        [tool, "machine-id", f"--app-specific={application}"], capture_output=True, text=True, check=True
    )
    assert boot.client_uuid_of_machine(machine_id) == str(uuid.UUID(told.stdout.strip()))


def test_the_machine_id_itself_does_not_leave_the_machine() -> None:
    derived = boot.client_uuid_of_machine(MACHINE_ID)
    assert derived == "0fd157c2-8a33-40d9-947c-c1cfe34852eb"
    assert derived.replace("-", "") != MACHINE_ID


def test_boot_id_and_boot_clock_are_the_kernels() -> None:
    assert boot.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert 0 < boot.boot_clock_s() <= boot.boot_clock_s()
