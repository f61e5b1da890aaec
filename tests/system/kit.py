"""The broker kit, set up on a machine by its README, word for word."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tools.lab import tree
from tools.lab.machine import Machine

KIT = tree.TREE / "docs/examples/mosquitto"


def commands(section: str) -> list[str]:
    """The blocks of a section; passwords are given where mosquitto_passwd would ask for them."""
    text = (KIT / "README.md").read_text().partition(f"\n## {section}")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"mosquitto_passwd (/\S+) (\S+)", r"mosquitto_passwd -b \1 \2 \2-secret", b) for b in blocks]


def do(machine: Machine, block: str) -> str:
    return machine.run("sh", "-euc", f"cd /root/kit\n{block}", timeout_s=180)


def set_up_broker(machine: Machine, folder: Path) -> None:
    """By the kit's README; its certificates are made in `folder`, and lie in /root/kit on the machine then."""
    shutil.copy(KIT / "certificates", folder)
    for block in commands("1."):
        subprocess.run(["sh", "-euc", block], cwd=folder, check=True, capture_output=True)
    kit = machine.path("/root/kit")
    shutil.copytree(folder, kit)
    for name in ("infoscreen.conf", "infoscreen.acl", "infoscreen-limits.conf"):
        shutil.copy(KIT / name, kit)
    machine.write("/etc/hosts", "127.0.0.1 broker.example\n")
    for block in commands("2."):
        do(machine, block)
