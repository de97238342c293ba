"""Flows that a configuration names."""


def smooth(raw):
    """The mean of the last three readings."""
    window = raw.pluck("det").sliding_window(3, return_partial=False)
    return window.map(lambda values: {"smooth": sum(values) / 3})
