"""The cluster tier: several hosts on one machine, each with a network of its own, and what runs on them. Needs root."""
