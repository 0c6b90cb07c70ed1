"""Tests of events, the page and the metrics."""
