"""What a build leaves: shards and tables, written so that none is ever half there; the check; the summary."""
