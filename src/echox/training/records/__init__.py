"""What a run writes down and says: logs, trackers, its record, its status."""
