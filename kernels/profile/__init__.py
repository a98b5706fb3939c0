"""What kernels do on a GPU, counted while their PTX is executed, and the bound that follows for a card.

python -m tilegrad.kernels.profile matmul --shape 256x256x256 --dtype bfloat16

cards.py      the cards, from their data sheets
occupancy.py  how many blocks a multiprocessor holds
bound.py      the time that no launch can be faster than
launches.py   the launches within a block of code, counted
calls.py      a call of each primitive
defaults.py   the launches of every shipped default
report.py     counters as text and as JSON
run.py        the command
"""
