"""The standard library's own tests of concurrent.futures, run against CrewExecutor. Imported, never copied."""
