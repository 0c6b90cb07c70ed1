"""What stands on the metrics: alerts, dashboard and their document."""
