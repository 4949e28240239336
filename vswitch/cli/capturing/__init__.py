"""Commands that carry frames, and frames in words."""
