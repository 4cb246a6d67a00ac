"""What leaves the process: run directories, vectors, recommendations, the report."""
