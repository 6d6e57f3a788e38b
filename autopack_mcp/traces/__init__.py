"""What a run did, step by step, and what its calls said: spans as rows, words without secrets, both for a while."""
