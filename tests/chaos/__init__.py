"""The chaos tier: a crew under load while a monkey kills and freezes whatever it finds. Minutes, not milliseconds."""
