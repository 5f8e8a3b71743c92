"""Tables of your own: CSV, TSV, JSONL, Parquet and Hugging Face datasets."""
