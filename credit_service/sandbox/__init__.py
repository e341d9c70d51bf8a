"""A made-up year of lending, lived through on a running service by its own calls.

`year` goes through the days on a clock file, `borrowers` says who pays when, and `files` writes the
workbooks that arrive. Nothing here reaches a database: whatever the sandbox shows was made by calls
that any client can make.
"""
