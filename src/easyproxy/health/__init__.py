"""Health: probes make observations, the verdict turns them into healthy or not."""
