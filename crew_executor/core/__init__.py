"""The pure core: decisions only. No clock, thread, socket, process, environment or log may be used in here."""
