"""Whatever step a service is killed at, its ledger ends as if nothing had happened; and the test would see it if not."""

import crashes
import pytest

CRASHES = 204  # in three ways; `make crash-test N=5000` runs more
WAYS = {
    "killed": {},
    "without power": {"power": True, "keeps": False},
    "with a ledger set back": {"set_back": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_service_that_is_killed_anywhere_makes_the_same_bytes(way, tmp_path):
    n_crashes = n_trials = 0
    while n_crashes < CRASHES / len(WAYS):
        items = crashes.documents(n_trials)
        wanted, n_steps = crashes.undisturbed(items, tmp_path / f"{n_trials}")
        crashed = crashes.trial(items, tmp_path / f"{n_trials} {way}", n_steps, n_trials, **WAYS[way])

        assert crashed >= 0
        assert crashes.contents(tmp_path / f"{n_trials} {way}" / "ledger") == wanted
        n_crashes += crashed
        n_trials += 1


@pytest.mark.parametrize(
    ("mutant", "way"),
    [
        (crashes.no_truncation, "killed"),
        (crashes.no_dedup, "killed"),
        (crashes.commit_before_snapshot, "killed"),
        (crashes.no_guard, "with a ledger set back"),
        (crashes.no_sync, "without power"),
        (crashes.waiting_is_covered, "killed"),
        (crashes.snapshots_while_read_again, "with a ledger set back"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_crash_logic_with_one_thing_left_out_is_caught(mutant, way, tmp_path):
    for seed in range(40):
        items = crashes.documents(seed)
        wanted, n_steps = crashes.undisturbed(items, tmp_path / f"{seed}")
        home = tmp_path / f"{seed} {way}"
        crashed = crashes.trial(items, home, n_steps, seed, mutant=mutant, most=12, **WAYS[way])
        if crashed < 0 or crashes.contents(home / "ledger") != wanted:
            return

    pytest.fail(f"{mutant.__name__} makes no difference")
