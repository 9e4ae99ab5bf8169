"""Work spread over processes and machines: shards on an engine, and ranks that train one model together."""
