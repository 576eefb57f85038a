"""What lies beside the events and is checked too: data keys, MACs, the schema, Parquet files."""
