"""What a run of the campaign does: everything there is comes up, and a seed says all."""

from tools.campaign.mischief import FAULTS
from tools.campaign.plan import KINDS, MOMENTS, WEIGHTS, draw

PLANS = [draw(seed) for seed in range(2000)]


def test_a_seed_is_enough_to_repeat_a_run() -> None:
    assert [draw(seed) for seed in range(2000)] == PLANS
    assert len(set(PLANS)) == len(PLANS)


def test_every_kind_of_command_every_fault_and_every_moment_comes_up() -> None:
    assert {sending.kind for plan in PLANS for sending in plan.sendings} == set(KINDS)
    assert {trouble.fault for plan in PLANS for trouble in plan.troubles} == set(WEIGHTS) == set(FAULTS)
    assert {trouble.moment for plan in PLANS for trouble in plan.troubles} == set(MOMENTS)
    assert {(len(plan.sendings), len(plan.troubles)) for plan in PLANS} == {(n, m) for n in (1, 2, 3) for m in (1, 2)}


def test_no_two_faults_of_a_run_take_hold_of_the_same() -> None:
    for plan in PLANS:
        held = [WEIGHTS[trouble.fault][1] for trouble in plan.troubles]
        assert len(set(held)) == len(held)
