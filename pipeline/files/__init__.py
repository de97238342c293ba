"""Results from files, and runs as files."""

from pipeline.files.export import export as export
from pipeline.files.formats import result_files as result_files
from pipeline.files.results import Results as Results
from pipeline.files.results import read_results as read_results
