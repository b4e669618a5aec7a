"""A build's work in pieces, and who does them: this process, or the workers of a Ray cluster."""
