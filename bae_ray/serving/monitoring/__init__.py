"""What replicas count, and the page that Prometheus reads."""
