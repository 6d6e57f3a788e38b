"""What a model's answer means: edits that become files, and verdicts that become a decision."""
