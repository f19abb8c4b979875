"""The fast tier: the pure core alone, without process, socket, thread or sleep."""
