"""Workbooks and CSV files as they are: columns, cells and their meanings, and safe reading."""
