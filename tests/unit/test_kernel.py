"""What the machine says of itself."""

from pathlib import Path

from infoscreen_reboot.client import kernel

MACHINE_ID = "3d1219c7c4c5404aaa1f6d2a48adfda4"


def test_the_machines_uuid_is_the_one_systemd_derives_and_not_the_machine_id() -> None:
    # What systemd 252 said there: systemd-id128 machine-id --app-specific=6e1a2d3c93c54f0e8f1b6f2f6f7d2a71
    assert kernel.client_uuid_of_machine(MACHINE_ID) == "0fd157c2-8a33-40d9-947c-c1cfe34852eb"


def test_boot_id_and_boot_clock_are_the_kernels() -> None:
    assert kernel.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert 0 < kernel.boot_clock_s() <= kernel.boot_clock_s()
