"""Ingestion: the one path by which rows of files and streams become customers and loans.

cells, wire         decode a file's cells, or a stream's fields, into columns of integers and text
frames              the pandas DataFrames of source rows and of validated rows
validation          splits a batch into valid rows and errors
loader              inserts, updates, skips or rejects the valid rows, in one transaction
merge_loans, merge_customers  the comparison with what is stored; merge is its state
streams, uploads    use cases: ingest batches of a stream; store a file, and ingest it in a worker
reading             parses and validates an uploaded file in a sandboxed process
downloads           use case: return an uploaded file as an annotated workbook
annotated_workbook  writes that workbook in a sandboxed process; annotated_rows is its content
"""
