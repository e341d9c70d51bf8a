"""The rules: pure functions and frozen values. No I/O, no clock, no randomness, no framework.

Money is integer paise, rates are integer basis points a year, dates are civil dates, and "today" is
always passed in.
"""
