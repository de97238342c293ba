"""The configuration of the powder demo, as text."""

from pathlib import Path

from pipeline.simulation import Powder

COLD, HOT = [1.94, 2.07], [1.43, 1.58]  # angstrom^-1: where the first ring of each phase is, and no other

EMPTY = """\
  - name: empty                     # the furnace without a powder: its mean pattern is taken off what the powder gives
    when: {{sample: empty}}
    every: 0
    reductions:
{integrated}      - FrameAverage: {{field: det_corrected_I, variance: false}}
"""
POWDER = """\
  - name: powder
    when: {{sample: powder}}
    every: 10                       # the running average, after every tenth frame
    reductions:
{integrated}      - Background: {{field: det_corrected_I, reference: "{folder}/empty.csv", x: det_corrected_q}}
      - CurvePeak: {{y: det_corrected_I_sub, x: det_corrected_q, range: {cold}, edge_count: 4, name: cold}}
      - CurvePeak: {{y: det_corrected_I_sub, x: det_corrected_q, range: {hot}, edge_count: 4, name: hot}}
      - CurveFit: {{y: det_corrected_I_sub, x: det_corrected_q, range: {cold}, name: cold_fit}}
      - CurveFit: {{y: det_corrected_I_sub, x: det_corrected_q, range: {hot}, name: hot_fit}}
      - Normalize:                  # the share of the hot phase, whose ring is {strength:.4f} times as strong
          numerator: hot_area
          monitor: i0
          op: hot_area / (hot_area + {strength:.4f} * cold_area)
          name: hot_share
          units: dimensionless
          counts: []
      - FrameAverage: {{field: det_corrected_I_sub, variance: false}}
"""
INTEGRATED = """\
      - Correct:                    # less the mean of the dark frames; without hot and dead pixels
          field: det
          dark: {{stream: dark, n: 10}}
          mask: "{folder}/mask.npy"
      - AzimuthalIntegration:       # I(q), over the monitor
          field: det_corrected
          poni: "{folder}/det.poni"
          npt: 500                  # bins as wide as a pixel
          radial_range: [0.4, 4.4]
          polarization_factor: 0.99
          norm: i0
"""


def powder_config(folder: Path, powder: Powder, *, is_empty: bool) -> str:
    """Return the configuration of the demo in this folder: of the empty furnace alone, or of both runs.

    >>> from pipeline.simulation import Phase
    >>> powder = Powder(Phase("a", [3.0], [1]), Phase("b", [4.0], [1]))
    >>> print(powder_config(Path("demo"), powder, is_empty=True)[:60])
    # What the demo does with the frames of its detector.
    nodes:
    """
    words = {
        "integrated": INTEGRATED.format(folder=folder),
        "folder": folder,
        "cold": COLD,
        "hot": HOT,
        "strength": powder.hot.intensities[0] / powder.cold.intensities[0],
    }
    nodes = "\n".join(part.format(**words) for part in ([EMPTY] if is_empty else [EMPTY, POWDER]))
    return (
        f"# What the demo does with the frames of its detector.\nnodes:\n{nodes}\n"
        f'sinks:\n  - JSONLSink: "{folder}/analysis"\n'
    )
