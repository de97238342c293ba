"""Live, incremental analysis of Bluesky runs, stored as runs of their own that are linked to the raw ones."""

from pipeline.attachment import attach as attach
from pipeline.buffer import Buffered as Buffered
from pipeline.errors import PipelineError as PipelineError
from pipeline.group import group_by as group_by
from pipeline.lineage import analyses as analyses
from pipeline.lineage import lineage as lineage
from pipeline.lineage import raw_runs as raw_runs
from pipeline.node import Node as Node
from pipeline.node import matches as matches
from pipeline.pipeline import Pipeline as Pipeline
from pipeline.reductions.reduction import Reduction as Reduction
from pipeline.run import BlueskyRun as BlueskyRun
from pipeline.run_builder import RunBuilder as RunBuilder
from pipeline.run_builder import build_simple_run as build_simple_run
from pipeline.store import Store as Store
from pipeline.store import store as store
