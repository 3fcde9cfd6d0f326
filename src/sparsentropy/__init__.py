"""sparsentropy: sparse codes with uncertainty and with no penalty to tune."""
