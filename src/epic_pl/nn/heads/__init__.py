"""Parts of a classification head, which any method may use."""
