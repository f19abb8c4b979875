"""Tests of the timeline's page in a real browser."""
