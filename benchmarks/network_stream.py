"""The other process of the bare stream that network.py measures."""

from network_bandwidth import echo

if __name__ == "__main__":
    echo()
