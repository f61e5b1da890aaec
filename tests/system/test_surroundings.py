"""What the kernel says of the network to a program in the agent's own sandbox; nothing here is played."""

from __future__ import annotations

from pathlib import Path

from tests.system.hands import drop_in
from tools.benchmarks.machines import processes
from tools.lab.machine import AGENT, Machine
from tools.lab.patience import Patience
from tools.lab.scratch import command

# In the agent's place. It says what it gets for an order to take a link away. At a signal it reads what the kernel has
# said so far, one message in a turn of the loop, and says how often there was news.
WATCHER = """\
import asyncio, logging, os, signal, socket, struct, sys
sys.path.insert(0, "/usr/share/infoscreen-reboot")
from infoscreen_reboot.client.agent import surroundings

news = []
tasks = []

def take_away_a_link():
    try:
        kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError as error:
        return error.strerror
    kernel.send(struct.pack("=IHHII", 32, 17, 5, 0, 0) + struct.pack("=BxHiII", 0, 0, 1, 0, 0))
    return os.strerror(-struct.unpack_from("=i", kernel.recv(4096), 16)[0])

async def tell():
    for _ in range(5000):
        await asyncio.sleep(0)
    print("heard", len(news), flush=True)

async def main():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: tasks.append(loop.create_task(tell())))
    print("order:", take_away_a_link(), flush=True)
    for _ in range(2):
        with surroundings.watch(lambda: news.append(None)):
            pass
    with surroundings.watch(lambda: news.append(None)):
        print("watching", flush=True)
        await asyncio.Event().wait()

logging.basicConfig()
asyncio.run(main())
"""
PLACE = "/usr/local/lib/lab-watcher.py"
INSTEAD = "[Service]", "Type=exec", "WatchdogSec=0", "ExecStart=", f"ExecStart=/usr/bin/python3 -I {PLACE}"
FORBIDDEN = (
    "RestrictAddressFamilies=",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "SystemCallFilter=~timerfd_create",
    "SystemCallErrorNumber=EPERM",
)
CARD, OTHER_END = "card0", "card1"
OURS = f"addr add 192.0.2.1/24 dev {CARD} valid_lft 300 preferred_lft 300"
OURS_OF_IPV6 = f"-6 addr add 2001:db8::1/64 dev {CARD} valid_lft 300 preferred_lft 300"
ROUTE, ROUTE_OF_IPV6 = "route add 198.51.100.0/24 via 192.0.2.254", "-6 route add 2001:db8:1::/64 via 2001:db8::fe"
PROLONGED = [words.replace(" add ", " change ").replace("300", "600") for words in (OURS, OURS_OF_IPV6)]
NO_NEWS = (
    *PROLONGED,
    f"neigh add 192.0.2.254 lladdr 02:00:00:00:00:fe dev {CARD}",
    f"link set {CARD} alias screen",
    ROUTE.replace("add", "del"),
    ROUTE_OF_IPV6.replace("add", "del"),
    f"link set {OTHER_END} down",
    f"link del {CARD}",
)


def watch(machine: Machine, *lines: str) -> None:
    """The watcher runs in the agent's place, with these changes of its sandbox."""
    machine.write(PLACE, WATCHER)
    drop_in(machine, AGENT, *INSTEAD, *lines)
    machine.boot()
    machine.wait_booted()
    wait_said(machine, "watching", 1)


def said(machine: Machine, first: str) -> list[str]:
    """The watcher's lines that begin so."""
    lines = machine.run("journalctl", "-b", "-u", AGENT, "-o", "cat").splitlines()
    return [line for line in lines if line.startswith(first)]


def wait_said(machine: Machine, first: str, number: int) -> str:
    """The line that it says as that one of them."""
    patience = Patience(20)
    while len(lines := said(machine, first)) < number:
        assert not patience.is_over, machine.journal(AGENT)
    return lines[number - 1]


def heard(machine: Machine) -> int:
    """How often the watcher has heard news until now."""
    number = len(said(machine, "heard ")) + 1
    machine.run("systemctl", "kill", "--signal=USR1", AGENT)
    return int(wait_said(machine, "heard ", number).split()[1])


def ip(machine: Machine, *commands: str) -> None:
    for words in commands:
        command("ip", "-n", machine.name, *words.split())


def wait_carrier(machine: Machine) -> None:
    """The kernel finds out of its own accord that the other end of a cable is there."""
    patience = Patience(20)
    while "LOWER_UP" not in command("ip", "-n", machine.name, "link", "show", CARD):
        assert not patience.is_over


def check_news(machine: Machine, words: str) -> None:
    before = heard(machine)
    ip(machine, words)
    assert heard(machine) > before, words


def test_a_network_that_comes_is_news_and_one_that_goes_or_is_prolonged_is_not(parked: Machine) -> None:
    watch(parked)
    ip(parked, f"link add {CARD} type veth peer name {OTHER_END}", f"link set {CARD} up")
    assert heard(parked) == 0
    ip(parked, f"link set {OTHER_END} up")
    wait_carrier(parked)
    assert heard(parked) > 0
    for words in (OURS, ROUTE, f"{OURS_OF_IPV6} nodad", ROUTE_OF_IPV6):
        check_news(parked, words)

    # A link makes an address of its own in IPv6, and that may be used a second later.
    settled = "until ! ip -6 addr show tentative | grep -q inet6; do sleep 0.1; done"
    command("ip", "netns", "exec", parked.name, "sh", "-c", settled)
    before = heard(parked)
    for words in NO_NEWS:
        ip(parked, words)
        assert heard(parked) == before, words


def test_what_did_not_fit_into_the_kernels_buffer_counts_as_news(parked: Machine, tmp_path: Path) -> None:
    watch(parked)
    many = tmp_path / "many"
    batch = [f"addr {verb} 203.0.113.{n}/32 dev lo" for _ in range(10) for verb in ("add", "del") for n in range(200)]
    many.write_text("\n".join(batch) + "\n")
    assert heard(parked) == 0
    parked.run("systemctl", "kill", "--signal=STOP", AGENT)
    ip(parked, f"-batch {many}")
    header, *sockets = command("ip", "netns", "exec", parked.name, "cat", "/proc/net/netlink").splitlines()
    column = header.split().index("Drops")
    assert any(int(line.split()[column]) for line in sockets)
    parked.run("systemctl", "kill", "--signal=CONT", AGENT)
    assert heard(parked) > 0
    # And it goes on.
    check_news(parked, "addr add 203.0.113.1/32 dev lo")


def test_the_sandbox_lets_it_watch_network_and_clock_and_change_nothing(parked: Machine) -> None:
    watch(parked)
    (process,) = processes(parked, AGENT)
    files = [str(path.readlink()) for path in (process / "fd").iterdir()]
    assert files.count("anon_inode:[timerfd]") == 1
    assert "cannot" not in parked.journal(AGENT)
    assert said(parked, "order:") == ["order: Operation not permitted"]


def test_a_sandbox_that_forbids_it_is_told_of_once_and_ends_nothing(parked: Machine) -> None:
    watch(parked, *FORBIDDEN)
    warnings = said(parked, "WARNING:")
    assert [line.partition("cannot watch ")[2].partition(":")[0] for line in warnings] == ["the network", "the clock"]
    assert heard(parked) == 0
