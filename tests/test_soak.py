"""Services that share a ledger, and are killed every few seconds, do what one would that nothing happens to."""

from soak import soak


def test_runs_from_kafka_and_a_journal_come_out_as_replayed_whoever_is_killed(tmp_path):
    seen = soak(100, tmp_path, seconds=16.0, kill_seconds=3.0)

    assert seen.wrong == []
    assert seen.parked == []
    assert seen.n_kills >= 4
