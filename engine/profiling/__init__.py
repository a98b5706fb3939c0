"""Looking at a running program: tilegrad.profile, and what TILEGRAD_DEBUG asks for.

recorder.py  what was told of calls, grouped
table.py     as text
chrome.py    as a file that Perfetto opens
profile.py   the block
debug.py     TILEGRAD_DEBUG
"""
