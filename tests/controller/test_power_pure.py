"""Ports and power cycles as values: what an inventory may say, and what may happen to a cycle."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoscreen_reboot.controller.inventory import InventoryError
from infoscreen_reboot.controller.power import cycle, port
from infoscreen_reboot.controller.power.cycle import Asked, State, Step
from infoscreen_reboot.controller.power.port import Backend, Known, Port, Reading

TREE = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 27, 3, tzinfo=UTC)
ONE, TWO, THREE = (f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2, 3))
BAR = Port("core", "1.7", "10.0.0.2", "lab")
KNOWN = Known({ONE: "bar", TWO: "spa", THREE: "spa"}, {ONE: BAR})


def outcomes(text: str, known: Known = KNOWN) -> list[tuple[int, str, str | None]]:
    return [(row.line, str(row.outcome), row.why) for row in port.plan(port.read_csv(text.encode()), known)]


def test_a_list_of_ports_names_clients_by_uuid_or_name() -> None:
    header = "client,switch,address,port,profile,backend\n"
    assert outcomes(f"{header}bar,core,10.0.0.2,1.7,lab,snmp\n") == [(2, "unchanged", None)]
    assert outcomes(f"{header}{ONE},core,10.0.0.2,1.8,lab,\n{TWO},core,,3,pdu,hook\n") == [
        (2, "changed", None),
        (3, "created", None),
    ]
    assert outcomes("client;port;switch;backend\nbar;outlet 4;rack;dry-run\n") == [(2, "changed", None)]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("spa,core,10.0.0.2,1,lab,snmp", "2 clients have this name"),
        ("nobody,core,10.0.0.2,1,lab,snmp", "there is no such client"),
        (",core,10.0.0.2,1,lab,snmp", "there is no such client"),
        (f"{TWO},core,10.0.0.2,7,lab,snmp", "port 7 of core would feed 2 clients"),
        (f"{TWO},CORE,10.0.0.2,001.007,lab,", "port 001.007 of CORE would feed 2 clients"),
        (f"{TWO},core,10.0.0.2,seven,lab,snmp", "port: an index as in 7, or group and index as in 1.7"),
        (f"{TWO},core,,1,lab,snmp", "address: SNMP needs the address of the switch"),
        (f"{TWO},core,-Dall,1,lab,snmp", "address: '-Dall' is no host"),
        (f"{TWO},core,unix:/x,1,lab,snmp", "address: an address is as in"),
        (f"{TWO},core,10.0.0.2:0,1,lab,snmp", "address: an address is as in"),
        (f"{TWO},core,10.0.0.2,1,,snmp", "profile: the name of the SNMP settings is missing"),
        (f"{TWO},core,10.0.0.2,1,../x,snmp", "profile: 1 to 64 letters"),
        (f"{TWO},core,,-rf,x,hook", "port: 1 to 64 letters"),
        (f"{TWO},core,,1,,hook", "profile: the name of the hook is missing"),
        (f"{TWO},core,,1,x,ssh", "backend: 'ssh' is none; known are snmp, hook, dry-run"),
        (f"{TWO},,10.0.0.2,1,lab,", "switch: a name has 1 to 128 characters"),
        (f"{TWO},a\x1b[2J,10.0.0.2,1,lab,", "switch: a name has 1 to 128 characters"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(row: str, why: str) -> None:
    [(_, outcome, said)] = outcomes(f"client,switch,address,port,profile,backend\n{row}\n")
    assert outcome == "refused" and said is not None and said.startswith(why), said


def test_a_client_has_one_port_and_a_port_has_one_client_in_the_file_too() -> None:
    header = "client,switch,address,port,profile\n"
    twice = outcomes(f"{header}bar,core,10.0.0.2,1,lab\n{ONE},core,10.0.0.2,2,lab\n")
    assert {why for _, _, why in twice} == {"this client is in the file more than once"}
    shared = outcomes(f"{header}{TWO},core,10.0.0.2,4,lab\n{THREE},core,10.0.0.2,1.4,lab\n")
    assert [outcome for _, outcome, _ in shared] == ["refused", "refused"]
    # What the first client leaves, the second one may have.
    swapped = outcomes(f"{header}{ONE},core,10.0.0.2,9,lab\n{TWO},core,10.0.0.2,7,lab\n")
    assert [outcome for _, outcome, _ in swapped] == ["changed", "created"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"client,switch\n", "one of them is port"),
        (b"client,switch,port,ip\n", "'ip' is no column"),
        (b"client,switch,port,port\n", "the column port is there more than once"),
        (b"\xff", "the file is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_as_a_whole(content: bytes, words: str) -> None:
    with pytest.raises(InventoryError, match=words):
        port.read_csv(content)


def test_ansible_says_it_in_the_variables_of_a_host() -> None:
    def hosts(**variables: Any) -> dict[str, Any]:
        return {"_meta": {"hostvars": {"bar": variables, "printer": {}}}}

    said: dict[str, Any] = {
        f"infoscreen_power_{name}": value for name, value in (("switch", "core"), ("address", "10.0.0.2"))
    }
    said |= {"infoscreen_power_port": 7, "infoscreen_power_profile": "lab"}
    [entry] = port.read_ansible(hosts(**said, infoscreen_client_uuid=ONE.upper()))
    assert (entry.client, entry.port, entry.fault) == (ONE, replace(BAR, port="7"), None)
    [entry] = port.read_ansible(hosts(**said))
    assert entry.client == "bar", "the name of the host is that of the client"
    [entry] = port.read_ansible(hosts(**{**said, "infoscreen_power_port": 1.1}))
    assert entry.fault is not None, "1.10 without quotes is 1.1"
    with pytest.raises(InventoryError, match="no host has the variable infoscreen_power_switch"):
        port.read_ansible(hosts())


def test_one_place_however_it_is_written() -> None:
    assert {Port(name, number, "SW", "x").place for name in ("a", "b") for number in ("7", "1.7", "1.07")} == {"sw 1.7"}
    assert Port("a", "2.7", "sw").place != Port("a", "7", "sw").place
    assert Port("PDU", "7", backend=Backend.HOOK).place == "pdu 7"
    assert port.target("10.0.0.2") == "udp:10.0.0.2:161"
    assert port.target("sw.example:1161") == "udp:sw.example:1161"
    assert port.target("[2001:DB8::2]:99") == "udp6:[2001:db8::2]:99"


@given(st.text(max_size=40))
def test_no_address_can_be_an_option_or_another_transport(text: str) -> None:
    try:
        found = port.target(text)
    except ValueError:
        return
    assert found.startswith(("udp:", "udp6:[")) and not set(found) & set(" \n\t'\"$;/@,")


# --- Cycles


def test_the_picture_in_the_docs_is_drawn_from_the_table() -> None:
    assert cycle.diagram() in (TREE / "docs/controller.md").read_text("utf-8")


def test_only_the_word_of_the_switch_leads_out_of_a_state_in_which_the_port_may_be_off() -> None:
    out = {
        step for (state, step), to in cycle.TABLE.items() if state in cycle.MAY_BE_OFF and to not in cycle.MAY_BE_OFF
    }
    assert out == {Step.SEE_ON}
    into = {state for (state, _), to in cycle.TABLE.items() if to in cycle.MAY_BE_OFF and state not in cycle.MAY_BE_OFF}
    assert into == {State.REQUESTED}, "nothing that has been on again goes off"


@given(st.lists(st.sampled_from(Step)))
def test_whatever_happens_a_cycle_goes_one_way_and_ends_once(steps: list[Step]) -> None:
    state, order = State.REQUESTED, list(State)
    for step in steps:
        to = cycle.after(state, step)
        assert to is None or order.index(to) > order.index(state)
        assert (state in cycle.before(step)) == (to is not None)
        assert to is None or state not in cycle.ENDED
        state = to or state


FREE = Asked(NOW, BAR, True, False, False, None, None, None)
RECENT = tuple(NOW - timedelta(minutes=minutes) for minutes in (1, 30, 59))


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        (FREE, None),
        (replace(FREE, port=None), "no_port"),
        (replace(FREE, is_accepted=False), "client_accepted"),
        (replace(FREE, open_cycle_id=4), "one_cycle"),
        (replace(FREE, open_command_id="x"), "one_open_command"),
        (replace(FREE, freeze="trade fair"), "freeze"),
        (replace(FREE, is_online=True), "client_online"),
        (replace(FREE, is_online=True, is_online_anyway=True), None),
        (replace(FREE, is_online_anyway=True, open_command_id="x"), "one_open_command"),
        (replace(FREE, cycled_at=RECENT), "power_lockout"),
        (replace(FREE, cycled_at=RECENT[1:]), None),
        (replace(FREE, cycled_at=RECENT, now=NOW + timedelta(minutes=1)), None),
    ],
)
def test_a_rule_refuses_a_cycle_or_none_does(asked: Asked, rule: str | None) -> None:
    found = cycle.refusal(asked)
    assert (found[0] if found else None) == rule
    assert found is None or found[1]


def test_a_port_that_delivers_no_power_is_not_switched_off() -> None:
    assert cycle.fault_before_off(Reading(True, True, "delivers power")) is None
    assert "it may be an uplink" in str(cycle.fault_before_off(Reading(True, False, "it looks for a device")))
    # A power strip that measures nothing. SNMP never says so.
    assert cycle.fault_before_off(Reading(True, None, "nothing tells")) is None
    assert "off already" in str(cycle.fault_before_off(Reading(False, False, "off")))


@given(
    st.dictionaries(st.integers(1, 50), st.sampled_from("abcdef")), st.sets(st.sampled_from("abc")), st.integers(0, 4)
)
def test_one_port_at_a_time_of_each_switch_and_the_oldest_first(
    requested: dict[int, str], busy: set[str], room: int
) -> None:
    found = cycle.to_begin(requested, busy, room)
    devices = [requested[each] for each in found]
    assert len(set(devices)) == len(devices) <= room and not set(devices) & busy
    for device in devices:
        assert min(number for number, of in requested.items() if of == device) in found
    if len(found) < room:
        assert set(requested.values()) <= {*busy, *devices}, "nobody waits without need"


def test_a_port_is_held_off_when_nobody_has_switched_it_on_in_time() -> None:
    late = NOW - timedelta(seconds=1)
    assert [state for state in State if cycle.is_held_off(state, late, NOW)] == [State.OWED, State.OFF]
    assert not any(cycle.is_held_off(state, NOW, NOW) or cycle.is_held_off(state, None, NOW) for state in State)
