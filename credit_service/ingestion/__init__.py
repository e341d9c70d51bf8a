"""Ingestion: rows of workbooks, CSV files and streams become customers and loans, by one path.

cells and wire     what a source holds, decoded into columns of integers and text with their faults
validation         columns → the facts of the valid rows, and the errors of the others
loader             facts → inserted, updated, unchanged, skipped or rejected, in one transaction
streams, uploads   the use cases: batches of a stream, and files that workers read
reading            an uploaded file is parsed and validated in a process of its own
downloads          the use case: an uploaded file comes back, annotated in a process of its own
"""
