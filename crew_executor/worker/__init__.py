"""The worker process: join, receive, run, answer, leave."""
