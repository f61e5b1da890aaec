"""Whether what is written is still there after a reboot: by what the kernel says of mounts and files."""

import errno
import os
from pathlib import Path

import pytest

from infoscreen_reboot.client import config, lasting
from infoscreen_reboot.client.config import ConfigError
from infoscreen_reboot.client.lasting import Mount, fault, find_mount, is_given
from tests.world import CLIENT

# /proc/self/mountinfo of a Raspberry Pi whose root raspi-config made read-only (overlayroot), and more.
PI = """\
25 1 0:22 / / rw,noatime shared:1 - overlay overlayroot rw,lowerdir=/media/root-ro,upperdir=/media/root-rw/overlay
26 25 179:2 / /media/root-ro ro,relatime shared:2 - ext4 /dev/mmcblk0p2 ro
27 25 0:21 / /media/root-rw rw,relatime shared:3 - tmpfs tmpfs-root rw
41 25 8:1 / /data rw,noatime - ext4 /dev/sda1 rw
42 25 8:1 /infoscreen-reboot /var/lib/infoscreen-reboot rw,noatime shared:20 master:3 - ext4 /dev/sda1 rw
43 25 254:0 / /var/lib/other\\040one rw - ext4 /dev/zram0 rw
44 25 0:50 / /mnt rw - nfs4 nas:/screens\\040of\\040mine rw
"""
IN_MEMORY = Path("/dev/shm")
MACHINE_ID = "3d1219c7c4c5404aaa1f6d2a48adfda4"


def test_the_mount_is_found_by_its_number_whatever_fields_it_has() -> None:
    assert find_mount(PI, "25") == Mount("overlay", "overlayroot", "0:22")
    assert find_mount(PI, "42") == Mount("ext4", "/dev/sda1", "8:1")
    assert find_mount(PI, "44") == Mount("nfs4", "nas:/screens of mine", "0:50")
    assert find_mount(PI, "2") is None and find_mount("", "25") is None


@pytest.mark.parametrize(
    ("number", "refused", "why"),
    [
        ("42", None, None),
        ("44", None, None),
        ("27", None, "it lies in memory (tmpfs)"),
        ("43", None, "it lies in memory (/dev/zram0)"),
        ("25", errno.EOPNOTSUPP, "it lies in memory (the upper layer of an overlay)"),
        ("25", None, None),
        ("25", errno.EROFS, "cannot tell whether the upper layer of its overlay lies in memory: Read-only file system"),
        ("99", None, "cannot tell on which file system it lies"),
    ],
)
def test_what_lies_in_memory_or_cannot_be_told_does_not_last(number: str, refused: int | None, why: str | None) -> None:
    assert fault(find_mount(PI, number), refused) == why


def test_an_unnamed_disk_is_no_disk_in_memory() -> None:
    assert fault(Mount("ext4", "/dev/mapper/zram0", "254:1"), None) is None


def test_a_directory_in_memory_is_named_with_the_recipe(tmp_path: Path) -> None:
    told = lasting.unfit_because(IN_MEMORY, tmp_path)
    assert told is not None
    assert told.startswith(f"what is written in {IN_MEMORY} does not outlive a reboot: it lies in memory (tmpfs)")
    assert told.endswith('see "A root that forgets" in fleet.md')


def test_half_a_recipe_is_none() -> None:
    folder = Path(__file__).parent
    told = lasting.unfit_because(folder, IN_MEMORY / "not made yet")
    # Whoever builds this in memory hears of the first.
    first = lasting.unfit_because(folder, folder)
    assert told == first or (told or "").startswith(f"what is written in {IN_MEMORY}/not made yet does not outlive")


def test_only_an_id_that_was_written_in_this_boot_and_lies_in_memory_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = IN_MEMORY / f"machine-id-of-{os.getpid()}"
    made_up.write_text(MACHINE_ID + "\n")
    monkeypatch.setattr(config, "_MACHINE_ID", made_up)
    try:
        with pytest.raises(ConfigError, match="lasts until the next boot: it lies in memory .tmpfs.; set CLIENT_UUID"):
            config.load({"MQTT_BROKER": "b"})
        assert config.load({"MQTT_BROKER": "b", "CLIENT_UUID": CLIENT})
        # Copied up, or unpacked: it keeps the time at which it was made somewhere else.
        os.utime(made_up, (1, 1))
        assert config.load({"MQTT_BROKER": "b"}).client_uuid
    finally:
        made_up.unlink()


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("quiet root=/dev/sda2", False),
        (f"quiet systemd.machine_id={MACHINE_ID}", True),
        ("systemd.machine_id=3D1219C7-C4C5-404A-AA1F-6D2A48ADFDA4 quiet", True),
        ("systemd.machine_id=firmware", True),
        ("systemd.machine_id=00000000000000000000000000000001", False),
        (f"notsystemd.machine_id={MACHINE_ID}", False),
    ],
)
def test_an_id_that_the_kernel_is_told_at_each_boot_lasts(words: str, given: bool) -> None:
    assert is_given(MACHINE_ID + "\n", words) is given
