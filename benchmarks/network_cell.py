"""The process of one measurement: network_cell.py ROW CONTENDER SETTINGS FILE. What it measured goes to the file.

It imports nothing before it is asked to: workers that import the client's script again should not pay for ours.
"""

if __name__ == "__main__":
    import sys

    from network_measure import measure

    measure(*sys.argv[1:])
