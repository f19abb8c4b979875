"""The agent: a process on another host that stands for it, starts workers there, and passes on what they say."""
